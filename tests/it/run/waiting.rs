//! Waits: retried errors, permanent errors, and their output.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{ExitStatusExt, Pod, Stdio, eventually, lockable, run, signal};
use crate::support::{dev_cert, process::free_port};

/// A wait that a permanent error must end before its time.
const LONG_WAIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn wait_continues_during_server_outage_and_restart() {
    let (port, folder) = (free_port().to_string(), tempfile::tempdir().unwrap());
    let database = format!("sqlite:{}", folder.path().join("test.db").display());
    let start =
        async || Pod::builder().database(&database).env("LOCKABLE_LISTEN", &format!("127.0.0.1:{port}")).start().await;
    let mut pod = start().await;
    let token = pod.first_token();
    assert_eq!(pod.stop().await, Some(0));
    let mut child = run(&pod, &token, &["-w", "100s", "away", "--", "echo", "ran"]).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = said.next_line().await.unwrap().unwrap();
    assert!(line.contains("cannot reach http"), "{line}");
    assert!(child.try_wait().unwrap().is_none(), "lockable waits for the server");
    let mut pod = start().await;
    assert_eq!(child.wait().await.unwrap().code(), Some(0));

    // While it waits in the queue, the server stops and starts again.
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/busy?owner=one&lease=2m").await.json["response"], true);
    let child = run(&pod, &token, &["busy", "--", "echo", "ran"]).spawn().unwrap();
    eventually(async || client.get("/v1/locks/busy").await.json["waiting"] == 1).await;
    pod.stop().await;
    let pod = start().await;
    let client = pod.client(&token);
    eventually(async || client.get("/v1/locks/busy").await.json["waiting"] == 1).await;
    assert_eq!(client.get("/v1/release/busy?owner=one").await.json["response"], true);
    let ran = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!((ran.status.code(), &*ran.stdout), (Some(0), &b"ran\n"[..]), "{said}");
    assert!(said.contains("waiting for busy, held by one since 2"), "{said}");
}

#[tokio::test]
async fn wait_continues_while_queue_limit_of_plan_is_reached() {
    let pod = Pod::start().await;
    pod.operator(&["plan", "set", "hobbyist", "--waiters", "1"]).await;
    let token = pod.account("hobbyist").await.token;
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/busy?owner=one").await.json["response"], true);
    let first = run(&pod, &token, &["busy", "--", "true"]).spawn().unwrap();
    eventually(async || client.get("/v1/locks/busy").await.json["waiting"] == 1).await;
    let second = run(&pod, &token, &["busy", "--", "true"]).spawn().unwrap();
    let limited = run(&pod, &token, &["-w", "2", "busy", "--", "true"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&limited.stderr);
    assert!(limited.status.code() == Some(75) && said.contains("Too many queued requests"), "{said}");
    assert_eq!(client.get("/v1/release/busy?owner=one").await.json["response"], true);
    for child in [first, second] {
        let ran = child.wait_with_output().await.unwrap();
        assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    }
}

/// Each permanent error has its own message.
#[tokio::test]
async fn permanent_error_ends_wait_at_once() {
    let certificate = dev_cert().await;
    let (plain, secure) = (Pod::start().await, Pod::builder().tls(&certificate).start().await);
    let token = plain.first_token();
    let (plain_url, secure_url) = (plain.origin(), secure.origin());
    let namespace = ["--namespace", "nowhere"];
    for (url, token, flags, code, words) in [
        (
            &*secure_url,
            &*token,
            &[][..],
            69,
            "from an unknown issuer (UnknownIssuer); set LOCKABLE_CA_FILE to the file of its CA",
        ),
        (
            &plain_url.replace("http", "https"),
            &token,
            &[],
            69,
            "does not use TLS on this port; if the server uses plain HTTP",
        ),
        (
            &secure_url.replace("https", "http"),
            &token,
            &[],
            69,
            "if the server uses HTTPS, write https:// in the address",
        ),
        ("http://locks.invalid", &token, &[], 69, "the host locks.invalid is unknown"),
        ("ftp://127.0.0.1", &token, &[], 2, "an address begins with https:// or http://"),
        (&plain_url, "wrong", &[], 69, "the server rejected the token from LOCKABLE_AUTH_TOKEN"),
        (&plain_url, &token, &namespace, 2, "Not a namespace of this account"),
    ] {
        let long_wait = LONG_WAIT.as_secs().to_string();
        for wait in [&[][..], &["-w", &long_wait]] {
            let mut command = lockable(&[&["run"], flags, wait, &["x", "--", "true"]].concat());
            command.env("LOCKABLE_URL", url).env("LOCKABLE_AUTH_TOKEN", token);
            let begun = Instant::now();
            let ran = command.output().await.unwrap();
            let said = String::from_utf8_lossy(&ran.stderr);
            assert!(begun.elapsed() < LONG_WAIT / 2, "{url}: {said}");
            assert!(ran.status.code() == Some(code) && said.contains(words), "{url}: {:?} {said}", ran.status);
        }
    }
}

#[tokio::test]
async fn run_without_wait_sends_one_request() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let mut command = run(&pod, &token, &["-n", "x", "--", "true"]);
    let ran = command.env("LOCKABLE_URL", nobody).output().await.unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!((ran.status.code(), said.lines().count()), (Some(69), 1), "{said}");
    assert!(said.contains("cannot reach http") && !said.contains("retrying"), "{said}");
}

#[tokio::test]
async fn refusal_shows_holder_start_and_expiry() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let acquired = client.get("/v1/acquire/busy?owner=ci-7&note=by%20ana&lease=1h").await.json;
    let until = acquired["expires_at"].as_str().unwrap().get(..19).unwrap().replace('T', " ");
    for args in [&["-n"][..], &["-w", "0.3"], &["-w", "300ms"]] {
        let ran = run(&pod, &token, &[args, &["busy", "--", "true"]].concat()).output().await.unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        let refusal = said.lines().last().unwrap();
        assert_eq!(ran.status.code(), Some(75), "{said}");
        assert!(refusal.starts_with("lockable: busy is held by ci-7 (by ana) since 2"), "{said}");
        assert!(refusal.ends_with(&format!(", until {until}Z")), "{said}");
    }
    let other = pod.account("business").await.token;
    let ran = run(&pod, &other, &["-n", "busy", "--", "true"]).output().await.unwrap();
    assert!(String::from_utf8_lossy(&ran.stderr).contains("busy is held by another account"), "{ran:?}");
}

#[tokio::test]
async fn interrupted_acquire_leaves_queue() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/busy?owner=one").await.json["response"], true);
    for sent in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
        let mut command = lockable(&["acquire", "busy", "--owner", "two", "-w", "1min"]);
        command.env("LOCKABLE_URL", pod.origin()).env("LOCKABLE_AUTH_TOKEN", &token).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        eventually(async || client.get("/v1/locks/busy").await.json["waiting"] == 1).await;
        signal(&child, sent);
        assert_eq!(child.wait().await.unwrap().signal(), Some(sent as i32));
        assert_eq!(client.get("/v1/locks/busy").await.json["waiting"], 0);
    }
}

#[tokio::test]
async fn json_report_is_last_line() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/busy?owner=one").await.json["response"], true);
    for (args, code, outcome, member, value) in [
        (&["a", "--", "sh", "-c", "echo loud >&2; exit 7"][..], 7, "ended", "/released", Value::from(true)),
        (&["-n", "busy", "--", "true"], 75, "not_acquired", "/held_by/owner", "one".into()),
        (&["-w", "0.1", "busy", "--", "true"], 75, "not_acquired", "/namespace", "public".into()),
        (&["--namespace", "nowhere", "a", "--", "true"], 2, "failed", "/name", "a".into()),
        (&["a", "--", "/no/such/program"], 127, "ended", "/loss", Value::Null),
    ] {
        let ran = run(&pod, &token, &[&["--json"], args].concat()).output().await.unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        let json: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(ran.status.code(), Some(code), "{args:?}: {said}");
        assert_eq!((&json["outcome"], &json["exit_code"]), (&outcome.into(), &code.into()), "{args:?}: {json}");
        assert_eq!(json.pointer(member), Some(&value), "{args:?}: {json}");
    }
}
