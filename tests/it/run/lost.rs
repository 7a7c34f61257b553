//! The command is stopped before anybody else has the lock.

use std::path::Path;

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::Child;

use super::{run, runs};
use crate::support::{
    Cluster,
    command::{signal, start_ready},
    eventually,
};

/// Writes the time again and again until it is stopped, and does not mind TERM.
const STUBBORN: &str = "trap '' TERM; echo ready; while :; do date +%s%N >\"$0\".new; mv \"$0\".new \"$0\"; done";

fn last_written(file: &Path) -> u64 {
    std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Runs a command on the first of two pods, takes away what `disturb` does, and
/// has somebody else wait for the lock on the second pod.
async fn is_stopped_in_time(disturb: impl AsyncFnOnce(&mut Cluster, &mut Child)) -> (Option<i32>, String) {
    let mut cluster = Cluster::start(2).await;
    let token = cluster.account("business").await.token;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("written");
    let args = ["--lease", "8s", "lost", "--", "sh", "-c", STUBBORN, file.to_str().unwrap()];
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
    assert!(last < at, "the command wrote {} us after another had the lock", (last - at) / 1000);
    eventually(async || !runs(file.to_str().unwrap())).await;
    // Whoever was stopped goes on, and says what it has come to.
    if child.try_wait().unwrap().is_none() {
        signal(&child, Signal::SIGCONT);
    }
    cluster.pods[0].resume();
    let ran = child.wait_with_output().await.unwrap();
    (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_server_is_gone() {
    let (code, said) = is_stopped_in_time(async |cluster, _| cluster.pods[0].kill()).await;
    assert_eq!(code, Some(74), "{said}");
    let lines: Vec<_> = said.lines().collect();
    let [failing, lost, ..] = lines[..] else { panic!("{said}") };
    assert!(failing.contains("heartbeats fail") && lost.contains("no heartbeat was confirmed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_server_does_not_answer() {
    let (code, said) = is_stopped_in_time(async |cluster, _| cluster.pods[0].pause()).await;
    assert_eq!(code, Some(74), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_wrapper_is_stopped() {
    let (code, said) = is_stopped_in_time(async |_, child| signal(child, Signal::SIGSTOP)).await;
    assert_eq!(code, Some(74), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_wrapper_is_killed() {
    is_stopped_in_time(async |_, child| signal(child, Signal::SIGKILL)).await;
}

#[tokio::test]
async fn when_the_lock_is_broken_at_the_next_heartbeat() {
    let cluster = Cluster::start(1).await;
    let token = cluster.account("business").await.token;
    let client = cluster.pods[0].client(&token);
    for (option, code, words) in [
        ("--on-lost=term", Some(74), "the lock was lost"),
        ("--on-lost=kill", Some(74), "the lock was lost"),
        ("--on-lost=ignore", Some(5), "the lock was lost"),
    ] {
        let script = "echo ready; for i in $(seq 20); do sleep 0.1; done; exit 5";
        let args = ["--lease", "3s", option, "broken", "--", "sh", "-c", script];
        let child = start_ready(run(&cluster.pods[0], &token, &args)).await;
        assert_eq!(client.request("DELETE", "/v1/locks/broken", &[]).await.json["response"], true);
        let ran = child.wait_with_output().await.unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), code, "{option}: {said}");
        assert!(said.contains(words), "{option}: {said}");
    }
}

#[tokio::test]
async fn when_everything_slept_the_command_is_stopped_on_waking() {
    let cluster = Cluster::start(1).await;
    let token = cluster.account("business").await.token;
    let client = cluster.pods[0].client(&token);
    let args = ["--lease", "1s", "slept", "--", "sh", "-c", "echo ready; exec sleep 4712"];
    let mut child = start_ready(run(&cluster.pods[0], &token, &args)).await;
    let command = group_of("4712").await;
    let watchdog = watchdog_of(child.id().unwrap());
    signal(&child, Signal::SIGSTOP);
    nix::sys::signal::kill(watchdog, Signal::SIGSTOP).unwrap();
    killpg(command, Signal::SIGSTOP).unwrap();
    eventually(async || client.get("/v1/acquire/slept?owner=other").await.json["response"] == true).await;
    killpg(command, Signal::SIGCONT).unwrap();
    nix::sys::signal::kill(watchdog, Signal::SIGCONT).unwrap();
    signal(&child, Signal::SIGCONT);
    assert_eq!(child.wait().await.unwrap().code(), Some(74));
    assert!(!runs("4712"));
}

/// The process with this argument, which leads its group.
async fn group_of(word: &str) -> Pid {
    let mut found = None;
    eventually(async || {
        found = processes().find(|(_, line)| line.starts_with("sleep") && line.contains(word)).map(|(pid, _)| pid);
        found.is_some()
    })
    .await;
    found.unwrap()
}

fn watchdog_of(parent: u32) -> Pid {
    let is_child = |pid: Pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}"))
    };
    processes().find(|(pid, line)| line.contains("watchdog") && is_child(*pid)).unwrap().0
}

fn processes() -> impl Iterator<Item = (Pid, String)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((Pid::from_raw(pid), std::fs::read_to_string(entry.path().join("cmdline")).ok()?))
    })
}
