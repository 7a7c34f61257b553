//! The command is stopped before another holder gets the lock.

use std::{path::Path, process::Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use super::{
    ended,
    processes::{find, runs, watchdog_of},
    run,
};
use crate::support::{
    Cluster,
    command::{signal, start_ready},
    eventually,
};

/// Writes the time in a loop, and ignores TERM.
const STUBBORN: &str = "trap '' TERM; echo ready; while :; do date +%s%N >\"$0\".new; mv \"$0\".new \"$0\"; done";

fn last_written(file: &Path) -> u64 {
    std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Runs a command on the first of two pods while another owner waits for the lock on the second
/// pod, applies `disturb`, and checks that the command's last write is before the next grant. Returns
/// the exit code and standard error.
async fn assert_stopped_before_next_grant(
    disturb: impl AsyncFnOnce(&mut Cluster, &mut Child),
) -> (Option<i32>, String) {
    let mut cluster = Cluster::start(2).await;
    let token = cluster.account("business").await.token;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("written");
    let args = ["--json", "--lease", "8s", "lost", "--", "sh", "-c", STUBBORN, file.to_str().unwrap()];
    let mut child = start_ready(run(&cluster.pods[0], &token, &args)).await;
    let other = cluster.pods[1].client(&token);
    let waiting = tokio::spawn(async move {
        let granted = other.get("/v1/acquire/lost?owner=other&wait=50s").await;
        (granted.json["response"] == true, now())
    });
    disturb(&mut cluster, &mut child).await;
    let (granted, at) = waiting.await.unwrap();
    assert!(granted);
    let last = last_written(&file);
    assert!(last < at, "the command wrote {} us after the next grant", (last - at) / 1000);
    eventually(async || !runs(file.to_str().unwrap())).await;
    // Continue a stopped process, which then reports its outcome.
    if child.try_wait().unwrap().is_none() {
        signal(&child, Signal::SIGCONT);
    }
    cluster.pods[0].resume();
    let ran = child.wait_with_output().await.unwrap();
    (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn command_is_stopped_when_server_is_killed() {
    let (code, said) = assert_stopped_before_next_grant(async |cluster, _| cluster.pods[0].kill()).await;
    assert_eq!(code, Some(74), "{said}");
    let lines: Vec<_> = said.lines().collect();
    let [failing, lost, ..] = lines[..] else { panic!("{said}") };
    assert!(failing.contains("heartbeats fail") && lost.contains("no heartbeat was confirmed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_is_stopped_when_server_does_not_answer() {
    let (code, said) = assert_stopped_before_next_grant(async |cluster, _| cluster.pods[0].pause()).await;
    assert_eq!(code, Some(74), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_is_stopped_when_lockable_is_stopped() {
    let (code, said) = assert_stopped_before_next_grant(async |_, child| signal(child, Signal::SIGSTOP)).await;
    assert_eq!(code, Some(74), "{said}");
    assert!(said.trim_end().ends_with('}') && said.contains(r#""outcome":"lost""#), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_is_stopped_when_lockable_is_killed() {
    assert_stopped_before_next_grant(async |_, child| signal(child, Signal::SIGKILL)).await;
}

#[tokio::test]
async fn command_is_stopped_at_next_heartbeat_after_break() {
    let cluster = Cluster::start(1).await;
    let token = cluster.account("business").await.token;
    let client = cluster.pods[0].client(&token);
    for (option, code) in [("--on-lost=term", 74), ("--on-lost=kill", 74), ("--on-lost=ignore", 5)] {
        let script = "echo ready; read -r line; exit 5";
        let args = ["--json", "--lease", "3s", option, "broken", "--", "sh", "-c", script];
        let mut command = run(&cluster.pods[0], &token, &args);
        command.stdin(Stdio::piped());
        let mut child = start_ready(command).await;
        assert_eq!(client.request("DELETE", "/v1/locks/broken", &[]).await.json["response"], true);
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = said.next_line().await.unwrap().unwrap();
        assert!(line.contains("the lock was lost"), "{option}: {line}");
        if option == "--on-lost=ignore" {
            // The command runs on until its standard input ends.
            assert!(child.try_wait().unwrap().is_none(), "{option}");
            drop(child.stdin.take());
        }
        let report: Value = serde_json::from_str(&said.next_line().await.unwrap().unwrap()).unwrap();
        assert_eq!(ended(&mut child).await.code(), Some(code), "{option}");
        // A lost lock is not released.
        let fields = ["released", "release_error"].map(|field| report.get(field));
        assert_eq!((&report["outcome"], fields), (&"lost".into(), [None, None]), "{option}: {report}");
    }
}

#[tokio::test]
async fn command_is_stopped_after_suspend_of_all_processes() {
    let cluster = Cluster::start(1).await;
    let token = cluster.account("business").await.token;
    let client = cluster.pods[0].client(&token);
    let args = ["--lease", "1s", "slept", "--", "sh", "-c", "echo ready; exec sleep 4712"];
    let mut child = start_ready(run(&cluster.pods[0], &token, &args)).await;
    let command = Pid::from_raw(find("4712").await.pid);
    let watchdog = watchdog_of(&child);
    // The watchdog last: lockable would continue it.
    signal(&child, Signal::SIGSTOP);
    kill(command, Signal::SIGSTOP).unwrap();
    kill(watchdog, Signal::SIGSTOP).unwrap();
    eventually(async || client.get("/v1/acquire/slept?owner=other").await.json["response"] == true).await;
    kill(command, Signal::SIGCONT).unwrap();
    kill(watchdog, Signal::SIGCONT).unwrap();
    signal(&child, Signal::SIGCONT);
    assert_eq!(child.wait().await.unwrap().code(), Some(74));
    assert!(!runs("4712"));
}
