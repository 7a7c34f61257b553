//! The owner of a run: each run is a separate holder, unless it resumes.

use super::{Pod, eventually, is_held, run, signal, start_ready};
use nix::sys::signal::Signal;

const WAIT: &[&str] = &["sh", "-c", "echo ready; exec sleep 30"];

#[tokio::test]
async fn runs_of_one_owner_exclude_each_other() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let label = "x".repeat(128);
    for (owner, begin) in [("backup", "backup:"), (&label, "xxxxxx")] {
        let mut first = start_ready(run(&pod, &token, &[&["--owner", owner, "o", "--"], WAIT].concat())).await;
        let holder = client.get("/v1/locks/o").await.json["holder"].clone();
        assert!(holder["owner"].as_str().unwrap().starts_with(begin), "{holder}");
        let mut second = run(&pod, &token, &["-n", "o", "--", "echo", "both"]);
        let second = second.env("LOCKABLE_OWNER", owner).output().await.unwrap();
        assert_eq!((second.status.code(), &*second.stdout), (Some(75), &b""[..]));
        assert_eq!(client.get("/v1/locks/o").await.json["holder"]["fencing_token"], holder["fencing_token"]);

        // The third run waits while the first one holds the lock.
        let mut third = run(&pod, &token, &["--owner", owner, "o", "--", "true"]).spawn().unwrap();
        eventually(async || client.get("/v1/locks/o").await.json["waiting"] == 1).await;
        signal(&first, Signal::SIGTERM);
        first.wait().await.unwrap();
        assert_eq!(third.wait().await.unwrap().code(), Some(0));
    }
}

#[tokio::test]
async fn resumed_run_takes_over_grant_of_its_owner() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let fence = client.get("/v1/acquire/o?owner=job-7").await.json["fencing_token"].to_string();
    let args = ["--owner", "job-7", "--resume", "o", "--", "sh", "-c", "echo $LOCKABLE_FENCING_TOKEN $LOCKABLE_HOLDER"];
    let ran = run(&pod, &token, &args).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), format!("{fence} job-7\n"));
    assert!(String::from_utf8_lossy(&ran.stderr).starts_with("lockable: resumed: job-7 holds o already"), "{ran:?}");
    assert!(!is_held(&client, "o").await);
    let fresh = run(&pod, &token, &args).output().await.unwrap();
    assert_eq!(&*fresh.stderr, b"", "no grant existed");
    assert_eq!(run(&pod, &token, &["--resume", "o", "--", "true"]).output().await.unwrap().status.code(), Some(2));
}

/// A run inside a run of the same lock would wait for itself.
#[tokio::test]
async fn nested_run_of_same_lock_fails_instead_of_waiting() {
    let pod = Pod::start().await;
    let other = Pod::start().await;
    let token = pod.first_token();
    let own = env!("CARGO_BIN_EXE_lockable");
    let other_server = format!("LOCKABLE_URL={} LOCKABLE_AUTH_TOKEN={}", other.origin(), other.first_token());
    for (line, code) in [
        ("lockable run a -- true".to_owned(), 2),
        ("lockable run -w 20s a -- true".to_owned(), 2),
        ("lockable acquire -w 20s a".to_owned(), 2),
        ("lockable run b -- lockable run a -- true".to_owned(), 2),
        ("lockable run -n a -- true".to_owned(), 75),
        ("lockable run b -- true".to_owned(), 0),
        ("lockable acquire a --owner me; lockable run --resume --owner me c -- true".to_owned(), 0),
        (format!("{other_server} lockable run a -- true"), 0),
    ] {
        let mut command = run(&pod, &token, &["a", "-c", &line.replace("lockable ", &format!("{own} "))]);
        let ran = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{line}: {said}");
        assert_eq!(said.contains("a is held by the lockable run that this command runs under"), code == 2, "{said}");
    }
}
