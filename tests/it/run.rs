//! `lockable run`: exit codes, signals, and the processes of the command.

mod escape;
mod lost;
mod owners;
pub mod processes;
mod signals;
mod together;
mod waiting;

use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::timeout,
};

use self::processes::runs;
use crate::support::{
    Pod,
    command::{is_held, signal, start_ready},
    eventually,
    pod::lockable,
};

/// Limit for the end of a run whose command would run for more than an hour.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// `lockable run` with the pod's address and a token.
fn run(pod: &Pod, token: &str, args: &[&str]) -> Command {
    let mut command = lockable(&[&["run"], args].concat());
    command.env("LOCKABLE_URL", pod.origin()).env("LOCKABLE_AUTH_TOKEN", token);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Waits for the end of a run.
async fn ended(child: &mut Child) -> ExitStatus {
    timeout(END_TIMEOUT, child.wait()).await.expect("the run does not end").unwrap()
}

/// The value of a shell's `$?`.
fn shell_code(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|number| 128 + number)).unwrap()
}

#[tokio::test]
async fn exit_code_is_the_commands() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/busy?owner=another").await.json["response"], true);
    let cases: &[(&[&str], i32, &str, &str)] = &[
        (&["free", "--", "true"], 0, "", ""),
        (&["free", "--", "sh", "-c", "echo said; exit 7"], 7, "said\n", ""),
        (&["free", "--", "sh", "-c", "echo loud >&2; exit 255"], 255, "", "loud\n"),
        (&["free", "--", "sh", "-c", "kill -KILL $$"], 137, "", ""),
        (&["free", "--", "sh", "-c", "kill -SEGV $$"], 139, "", ""),
        (&["free", "--", "sh", "-c", "kill -34 $$"], 162, "", ""),
        (&["free", "--", "/no/such/program"], 127, "", "lockable: /no/such/program: No such file"),
        (&["free", "--", "/etc/passwd"], 126, "", "lockable: /etc/passwd: Permission denied"),
        (&["-n", "free", "--", "echo", "-n", "--wait"], 0, "--wait", ""),
        (&["-n", "busy", "--", "echo", "no"], 75, "", "lockable: busy is held by another"),
        (&["-w", "300ms", "busy", "--", "echo", "no"], 75, "", "lockable: waiting for busy, held by another since"),
        (&["-nq", "busy", "--", "echo", "no"], 75, "", ""),
        (&["-q", "-w", "100ms", "busy", "--", "echo", "no"], 75, "", ""),
        (&["-E", "42", "-w", "0", "busy", "--", "echo", "no"], 42, "", "lockable: busy is held by another since 2"),
        (&["free", "-c", "echo a | tr a b; exit 3"], 3, "b\n", ""),
        (&["a//b", "--", "echo", "no"], 2, "", "error: invalid value 'a//b' for '<NAME>'"),
        (&["--lease", "8000h", "free", "--", "echo", "no"], 2, "", "lockable: Lease outside the plan's range"),
    ];
    for (args, code, stdout, stderr) in cases {
        let ran = run(&pod, &token, args).output().await.unwrap();
        let [said, complained] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!((shell_code(ran.status), &*said), (*code, *stdout), "{args:?}: {complained}");
        assert!(complained.starts_with(stderr) && complained.is_empty() == stderr.is_empty(), "{args:?}: {complained}");
        assert!(!is_held(&client, "free").await, "{args:?}");
    }
    let ran = run(&pod, "nobody", &["free", "--", "true"]).output().await.unwrap();
    assert_eq!(ran.status.code(), Some(69));
    let nowhere = run(&pod, &token, &["free", "--", "true"]).env_remove("LOCKABLE_URL").output().await.unwrap();
    assert_eq!(nowhere.status.code(), Some(2));
    // Every failed wait has left the queue.
    assert_eq!(client.get("/v1/locks/busy").await.json["waiting"], 0);
}

#[tokio::test]
async fn signals_are_forwarded_and_no_process_remains() {
    use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    for (sent, command, code) in [
        (SIGINT, "echo ready; sleep 4711 & wait", 130),
        (SIGTERM, "echo ready; sleep 4711 & wait", 143),
        (SIGHUP, "echo ready; sleep 4711 & wait", 129),
        (SIGQUIT, "echo ready; sleep 4711 & wait", 131),
        (SIGUSR1, "echo ready; sleep 4711 & wait", 138),
        (SIGUSR2, "echo ready; sleep 4711 & wait", 140),
        (SIGTERM, "trap 'exit 9' TERM; echo ready; sleep 4711 & wait", 9),
        (SIGUSR1, "trap 'exit 0' USR1; echo ready; sleep 4711 & wait", 0),
        // The child ignores the signal, and is ended with the command.
        (SIGTERM, "(trap '' TERM; echo ready; exec sleep 4711) & wait", 143),
    ] {
        let args = ["--kill-after", "200ms", "signalled", "--", "sh", "-c", command];
        let mut child = start_ready(run(&pod, &token, &args)).await;
        assert!(is_held(&client, "signalled").await);
        signal(&child, sent);
        assert_eq!(shell_code(ended(&mut child).await), code, "{sent}: {command}");
        assert!(!is_held(&client, "signalled").await && !runs("4711"), "{sent}: {command}");
    }
}

#[tokio::test]
async fn command_gets_input_lock_and_fencing_token() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let script = "cat; echo $LOCKABLE_LOCK $LOCKABLE_FENCING_TOKEN $LOCKABLE_HOLDER $LOCKABLE_EXPIRES_AT";
    let mut command =
        run(&pod, &token, &["--owner", "ci-1", "--resume", "--note", "by ana", "a/b", "--", "sh", "-c", script]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let client = pod.client(&token);
    eventually(async || is_held(&client, "a/b").await).await;
    let holder = client.get("/v1/locks/a/b").await.json["holder"].clone();
    assert_eq!((&holder["owner"], &holder["note"]), (&"ci-1".into(), &"by ana".into()));
    child.stdin.take().unwrap().write_all(b"all of it\n").await.unwrap();
    let ran = child.wait_with_output().await.unwrap();
    let expected =
        format!("all of it\na/b {} ci-1 {}\n", holder["fencing_token"], holder["expires_at"].as_str().unwrap());
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), expected);
}

#[tokio::test]
async fn signal_ends_wait_and_leaves_queue() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/busy?owner=another").await.json["response"], true);
    for sent in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut child = run(&pod, &token, &["busy", "--", "true"]).spawn().unwrap();
        eventually(async || client.get("/v1/locks/busy").await.json["waiting"] == 1).await;
        signal(&child, sent);
        assert_eq!(ended(&mut child).await.signal(), Some(sent as i32));
        assert_eq!(client.get("/v1/locks/busy").await.json["waiting"], 0);
    }
}

#[tokio::test]
async fn lease_is_renewed_while_command_runs() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let mut child =
        start_ready(run(&pod, &token, &["--lease", "2s", "kept", "--", "sh", "-c", "echo ready; sleep 30"])).await;
    let fence = client.get("/v1/locks/kept").await.json["holder"]["fencing_token"].clone();
    let begun = Instant::now();
    eventually(async || {
        assert_eq!(client.get("/v1/locks/kept").await.json["holder"]["fencing_token"], fence);
        begun.elapsed() > Duration::from_secs(5)
    })
    .await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(shell_code(child.wait().await.unwrap()), 143);
}

#[tokio::test]
async fn grant_after_a_wait_has_its_whole_lease() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/waited?owner=another&lease=8s").await.json["response"], true);
    // The wait is longer than the lease.
    let args = ["--lease", "3s", "waited", "--", "sh", "-c", "sleep 1; echo done"];
    let ran = run(&pod, &token, &args).output().await.unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!((ran.status.code(), &*ran.stdout), (Some(0), &b"done\n"[..]), "{said}");
}
