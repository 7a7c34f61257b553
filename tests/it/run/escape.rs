//! No process that a command has started runs on without the lock.

use std::{
    os::unix::fs::PermissionsExt,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::{
    ended,
    processes::{count, find, runs, signal_watchdog_of, zombies_below},
    run, shell_code,
};
use crate::support::{
    Pod,
    command::{is_held, signal, start_ready},
    eventually,
};

/// Scripts that start `sleep $0` outside their process group or session.
const ESCAPES: [&str; 5] = [
    "echo ready; timeout 99 sleep $0; true",
    "echo ready; setsid sleep $0; true",
    "set -m; sleep $0 & echo ready; wait",
    "(setsid sh -c \"sleep $0 & sleep $0\" &) ; echo ready; sleep 55",
    "echo ready; python3 -c 'import subprocess, sys; subprocess.run([\"sleep\", sys.argv[1]], start_new_session=True)' $0; true",
];

async fn start(pod: &Pod, token: &str, args: &[&str], script: &str, seconds: &str) -> tokio::process::Child {
    let args = [&["--lease", "4s"], args, &["escaped", "--", "bash", "-c", script, seconds]].concat();
    let child = start_ready(run(pod, token, &args)).await;
    find(seconds).await;
    child
}

#[tokio::test]
async fn all_processes_end_on_signal_on_loss_and_at_the_end() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    for (number, script) in ESCAPES.iter().enumerate() {
        let seconds = format!("48{number}");
        let mut child = start(&pod, &token, &[], script, &seconds).await;
        signal(&child, Signal::SIGTERM);
        assert_eq!(shell_code(child.wait().await.unwrap()), 143, "{script}");
        assert!(!runs(&seconds) && !is_held(&client, "escaped").await, "{script}");

        let mut child = start(&pod, &token, &[], script, &seconds).await;
        assert_eq!(client.request("DELETE", "/v1/locks/escaped", &[]).await.json["response"], true);
        assert_eq!(shell_code(child.wait().await.unwrap()), 74, "{script}");
        assert!(!runs(&seconds), "{script}");
    }
    // The command ends when its standard input ends, after all of its processes have started.
    let script = "setsid sleep $0 & (trap '' TERM; exec setsid sleep $0) & echo ready; read -r line; exit 3";
    let args = ["--lease", "4s", "--kill-after", "300ms", "escaped", "--", "bash", "-c", script, "4899"];
    let mut command = run(&pod, &token, &args);
    command.stdin(Stdio::piped());
    let mut child = start_ready(command).await;
    eventually(async || count("4899") == 2).await;
    drop(child.stdin.take());
    assert_eq!(shell_code(ended(&mut child).await), 3);
    assert!(!runs("4899") && !is_held(&client, "escaped").await);
}

#[tokio::test]
async fn leave_background_keeps_processes_except_on_loss() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let script = "setsid sleep $0 </dev/null >/dev/null 2>&1 & echo ready; sleep 0.2";
    let mut child = start(&pod, &token, &["--leave-background"], script, "4881").await;
    assert_eq!(shell_code(child.wait().await.unwrap()), 0);
    assert!(!is_held(&client, "escaped").await);
    kill(Pid::from_raw(find("4881").await.pid), Signal::SIGKILL).unwrap();

    let script = "setsid sleep $0 </dev/null >/dev/null 2>&1 & echo ready; sleep 55";
    let mut child = start(&pod, &token, &["--leave-background"], script, "4882").await;
    assert_eq!(client.request("DELETE", "/v1/locks/escaped", &[]).await.json["response"], true);
    assert_eq!(shell_code(child.wait().await.unwrap()), 74);
    assert!(!runs("4882"));
}

#[tokio::test]
async fn all_processes_end_when_lockable_or_watchdog_is_killed_or_stopped() {
    use Signal::{SIGKILL, SIGSTOP, SIGTERM};
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let script = "echo ready; timeout 99 sleep $0; true";
    for (to_watchdog, sent, code) in [(true, SIGKILL, 137), (true, SIGTERM, 143), (false, SIGKILL, 137)] {
        let mut child = start(&pod, &token, &[], script, "4871").await;
        match to_watchdog {
            true => signal_watchdog_of(&child, sent),
            false => signal(&child, sent),
        }
        assert_eq!(shell_code(child.wait().await.unwrap()), code, "{to_watchdog} {sent}");
        eventually(async || !runs("4871")).await;
        // A killed lockable leaves the lock to its lease.
        eventually(async || !is_held(&client, "escaped").await).await;
    }
    // A stopped watchdog is continued: it ends the command of a stopped lockable in time.
    let mut child = start(&pod, &token, &[], script, "4872").await;
    signal_watchdog_of(&child, SIGSTOP);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert_eq!(said.next_line().await.unwrap().unwrap(), "lockable: the watchdog was stopped; lockable continued it");
    signal(&child, SIGSTOP);
    eventually(async || !is_held(&client, "escaped").await).await;
    assert!(!runs("4872"));
    signal(&child, Signal::SIGCONT);
    assert_eq!(shell_code(child.wait().await.unwrap()), 74);
}

#[tokio::test]
async fn command_dies_when_both_lockable_and_watchdog_are_killed() {
    let pod = Pod::start().await;
    let mut child = start(&pod, &pod.first_token(), &[], "echo ready; exec sleep $0", "4861").await;
    let watchdog = super::processes::watchdog_of(&child);
    signal(&child, Signal::SIGSTOP);
    kill(watchdog, Signal::SIGSTOP).unwrap();
    signal(&child, Signal::SIGKILL);
    kill(watchdog, Signal::SIGKILL).unwrap();
    eventually(async || !runs("4861")).await;
    child.wait().await.unwrap();
}

#[tokio::test]
async fn inner_run_ends_within_kill_after_of_outer_run() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    // The inner run alone would leave its command this time.
    let inner_kill_after = Duration::from_secs(60);
    let inner = format!(
        "{} run --lease 5m --kill-after {}s inner -- sh -c 'trap \"\" TERM; echo ready; sleep 4851'",
        env!("CARGO_BIN_EXE_lockable"),
        inner_kill_after.as_secs()
    );
    let script = format!("timeout 99 {inner}");
    let args = ["--lease", "3s", "outer", "--", "sh", "-c", &script];
    let mut child = start_ready(run(&pod, &token, &args)).await;
    assert_eq!(client.request("DELETE", "/v1/locks/outer", &[]).await.json["response"], true);
    let begun = Instant::now();
    assert_eq!(shell_code(child.wait().await.unwrap()), 74);
    assert!(!runs("4851") && begun.elapsed() < inner_kill_after, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn orphans_are_reaped_while_command_runs() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let script = "for i in $(seq 50); do (true &); (setsid true &); done; echo ready; sleep 4841";
    let mut child = start(&pod, &token, &[], script, "4841").await;
    let pid = child.id().unwrap() as i32;
    eventually(async || zombies_below(pid) == 0).await;
    signal(&child, Signal::SIGTERM);
    child.wait().await.unwrap();

    // As the first process of a container, the ancestor of all other processes.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let own = run(&pod, &token, &["contained", "--", "bash", "-c", script]);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(own.as_std().get_program()).args(own.as_std().get_args());
    for (name, value) in own.as_std().get_envs() {
        value.map(|value| command.env(name, value));
    }
    command.stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = start_ready(command).await;
    let unshare = child.id().unwrap() as i32;
    eventually(async || zombies_below(unshare) == 0).await;
    let first = super::processes::processes().into_iter().find(|process| process.parent == unshare).unwrap();
    // The first process dies only of signals that it catches.
    kill(Pid::from_raw(first.pid), Signal::SIGTERM).unwrap();
    assert_eq!(shell_code(child.wait().await.unwrap()), 143);
    assert!(!runs("4841") && !is_held(&pod.client(&token), "contained").await);
}

#[tokio::test]
async fn process_of_another_user_is_named_and_lock_is_not_released() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let folder = tempfile::tempdir().unwrap();
    let sudo = folder.path().join("sudo");
    std::fs::copy("/usr/bin/setpriv", &sudo).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&sudo, PermissionsExt::from_mode(0o4755)).unwrap();
    let script = format!("{} --reuid 0 sleep 4831 >/dev/null 2>&1 & echo ready; sleep 0.3; exit 5", sudo.display());
    let args = ["--lease", "4s", "--kill-after", "200ms", "foreign", "--", "sh", "-c", &script];
    let mut command = run(&pod, &token, &args);
    command.uid(22222).gid(22222);
    let child = start_ready(command).await;
    let foreign = find("4831").await.pid;
    let ran = child.wait_with_output().await.unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(5), "{said}");
    assert!(said.contains(&format!("cannot end process {foreign} (sleep): the lock is not released")), "{said}");
    assert!(is_held(&client, "foreign").await);
    eventually(async || !is_held(&client, "foreign").await).await;
    kill(Pid::from_raw(foreign), Signal::SIGKILL).unwrap();
}
