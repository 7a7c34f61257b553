//! Signals, and the state that a command inherits.

use std::{
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use nix::{libc, sys::signal::Signal};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

use super::{
    END_TIMEOUT, ended,
    processes::{runs, signal_watchdog_of},
    run, shell_code,
};
use crate::support::{
    Pod,
    command::{is_held, signal, start_ready},
    eventually, run_shell,
};

/// Prints the received signals when it has received a number of them, and half a second has passed for
/// repeated ones. A shell would lose simultaneous signals.
const LISTENER: &str = r"
import os, signal, sys, time
received = []
for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, lambda number, _: received.append(number))
os.write(1, b'ready\n')
end = time.monotonic() + 60
while len(received) < int(sys.argv[1]) and time.monotonic() < end:
    time.sleep(0.05)
time.sleep(0.5)
print(*received, sep='\n')
";

#[tokio::test]
async fn each_ending_signal_is_forwarded_once() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let mut sent = vec![1, 2, 3, 10, 12, 14, 15, 24, 25, 26, 27, 29, 30, 34, 40, 64];
    let count = sent.len().to_string();
    // A long time to SIGKILL after SIGTERM, which is one of the signals.
    let args = ["--lease", "5m", "--kill-after", "90s", "signalled", "--", "python3", "-c", LISTENER, &count];
    let child = start_ready(run(&pod, &token, &args)).await;
    for number in &sent {
        let line = format!("kill -{number} {}", child.id().unwrap());
        run_shell(&line).await;
    }
    let ran = child.wait_with_output().await.unwrap();
    let mut received: Vec<i32> =
        String::from_utf8(ran.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    received.sort_unstable();
    sent.sort_unstable();
    assert_eq!((received, ran.status.code()), (sent, Some(0)));
    for number in [libc::SIGALRM, libc::SIGXCPU, libc::SIGPROF, libc::SIGIO, libc::SIGRTMIN()] {
        let mut child =
            start_ready(run(&pod, &token, &["signalled", "--", "sh", "-c", "echo ready; exec sleep 4791"])).await;
        run_shell(&format!("kill -{number} {}", child.id().unwrap())).await;
        assert_eq!(ended(&mut child).await.signal(), Some(number));
        assert!(!runs("4791") && !is_held(&client, "signalled").await, "{number}");
    }
}

#[tokio::test]
async fn command_that_ignores_term_is_killed_after_kill_after() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    for (options, is_for_watchdog) in [
        (&[][..], false),
        (&[], true),
        (&["--on-lost", "ignore"], false),
        (&["--on-lost", "kill"], false),
        (&["--leave-background"], false),
    ] {
        let script = "trap '' TERM; setsid sleep 4792 & echo ready; sleep 4792; true";
        let args = [options, &["--kill-after", "300ms", "killed", "--", "sh", "-c", script]].concat();
        let mut child = start_ready(run(&pod, &token, &args)).await;
        match is_for_watchdog {
            true => signal_watchdog_of(&child, Signal::SIGTERM),
            false => signal(&child, Signal::SIGTERM),
        }
        assert_eq!(ended(&mut child).await.signal(), Some(libc::SIGKILL), "{options:?}");
        assert!(!runs("4792") && !is_held(&client, "killed").await, "{options:?}");
        let said = child.wait_with_output().await.unwrap().stderr;
        let expected = "lockable: the command still runs 300ms after SIGTERM; lockable kills all of its processes\n";
        assert_eq!(String::from_utf8_lossy(&said), expected, "{options:?}");
    }
}

/// Prints each TERM, and continues.
const DEAF: &str = "trap 'echo TERM' TERM; echo ready; while :; do sleep 0.1; done";

#[tokio::test]
async fn second_term_is_forwarded_before_the_kill() {
    let pod = Pod::start().await;
    let args = ["--kill-after", "8s", "killed", "--", "bash", "-c", DEAF];
    let mut child = start_ready(run(&pod, &pod.first_token(), &args)).await;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        signal(&child, Signal::SIGTERM);
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("TERM"));
    }
    assert_eq!(ended(&mut child).await.signal(), Some(libc::SIGKILL));
    assert_eq!(lines.next_line().await.unwrap(), None);
}

#[tokio::test]
async fn command_that_ignores_term_is_killed_although_lockable_is_dead() {
    let pod = Pod::start().await;
    let args = ["--on-lost", "ignore", "--kill-after", "3s", "killed", "--", "bash", "-c", DEAF];
    let mut child = start_ready(run(&pod, &pod.first_token(), &args)).await;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    signal(&child, Signal::SIGTERM);
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("TERM"));
    signal(&child, Signal::SIGKILL);
    // The end of the output is the end of all processes; the watchdog sends TERM once more.
    while timeout(END_TIMEOUT, lines.next_line()).await.expect("the command runs on").unwrap().is_some() {}
}

#[tokio::test]
async fn other_signals_that_are_ignored_do_not_end_the_command() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let script = "trap '' INT HUP USR1; echo ready; exec sleep 4794";
    let args = ["--kill-after", "100ms", "kept", "--", "sh", "-c", script];
    let mut child = start_ready(run(&pod, &token, &args)).await;
    for sent in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
        signal(&child, sent);
    }
    let begun = Instant::now();
    eventually(async || {
        assert!(child.try_wait().unwrap().is_none() && is_held(&client, "kept").await);
        begun.elapsed() > Duration::from_secs(1)
    })
    .await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(shell_code(ended(&mut child).await), 143);
}

/// Compares a shell's output with `lockable` and with `env` as the wrapper.
#[tokio::test]
async fn command_inherits_the_same_state_as_without_lockable() {
    let pod = Pod::start().await;
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "echo \"$0 $1\"; exit 6\n").unwrap();
    run_shell(&format!("chmod +x {}", script.display())).await;
    let own = run(&pod, &pod.first_token(), &["inherit", "--"]);
    let own = own.as_std();
    let variables: Vec<_> =
        own.get_envs().filter_map(|(name, value)| Some(format!("{}='{}'", name.to_str()?, value?.to_str()?))).collect();
    let lockable = format!("env {} {} run inherit --", variables.join(" "), own.get_program().to_str().unwrap());
    let ids = "ps -o pgid=,sid= -p $$ | tr -s \" \"; grep -E \"Sig(Blk|Ign)\" /proc/self/status";
    for line in [
        format!("WRAPPER {} word; echo $?", script.display()),
        "WRAPPER sh -c 'echo hello' >&-; echo $?".to_owned(),
        "WRAPPER cat <&- 2>/dev/null; echo $?".to_owned(),
        "WRAPPER sh -c 'ls /proc/self/fd | wc -l' 5>/dev/null".to_owned(),
        format!("WRAPPER sh -c '{ids}'"),
        format!("trap '' INT HUP PIPE; WRAPPER sh -c '{ids}'"),
        "python3 -c 'import signal, subprocess; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGUSR1]); \
            signal.signal(signal.SIGCHLD, signal.SIG_IGN); signal.signal(signal.SIGPIPE, signal.SIG_IGN); import os, sys; \
            os.execvp(sys.argv[1], sys.argv[1:])' WRAPPER sh -c 'grep -E \"Sig(Blk)\" /proc/self/status; exit 4'; echo $?"
            .to_owned(),
        "WRAPPER sh -c 'kill -INT $$'; echo $?".to_owned(),
        "(ulimit -c 0; WRAPPER sh -c 'kill -QUIT $$'; echo $?) 2>/dev/null".to_owned(),
    ] {
        let expected = run_shell(&line.replace("WRAPPER", "env")).await;
        let found = run_shell(&line.replace("WRAPPER", &lockable)).await;
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "{line}");
    }
}

#[tokio::test]
async fn on_lost_kill_sends_no_term() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let script = "trap 'echo TERM' TERM; echo ready; while :; do sleep 0.1; done";
    let args = ["--lease", "3s", "--on-lost", "kill", "broken", "--", "bash", "-c", script];
    let child = start_ready(run(&pod, &token, &args)).await;
    assert_eq!(client.request("DELETE", "/v1/locks/broken", &[]).await.json["response"], true);
    let ran = child.wait_with_output().await.unwrap();
    assert_eq!((ran.status.code(), &*ran.stdout), (Some(74), &b""[..]));
}

#[tokio::test]
async fn run_with_too_few_file_descriptors_fails_without_panic() {
    let pod = Pod::start().await;
    let own = run(&pod, &pod.first_token(), &["few", "--", "true"]);
    let own = own.as_std();
    for limit in 4..12 {
        let mut command = tokio::process::Command::new("bash");
        command.args(["-c", "ulimit -n $0; exec \"$@\"", &limit.to_string()]);
        command.arg(own.get_program()).args(own.get_args());
        for (name, value) in own.get_envs() {
            value.map(|value| command.env(name, value));
        }
        let ran = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(
            matches!(ran.status.code(), Some(69 | 0 | 127)) && !said.contains("panic"),
            "{limit}: {:?} {said}",
            ran.status
        );
    }
}

#[tokio::test]
async fn stop_signal_to_lockable_stops_command() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let args = ["stopped", "--", "sh", "-c", "echo ready; timeout 99 sleep 4781; true"];
    let mut run = run(&pod, &token, &args);
    // The kernel ignores SIGTSTP in an orphaned process group, which that of the tests may be.
    run.process_group(0);
    let mut child = start_ready(run).await;
    let command = super::processes::find("4781").await.pid;
    let state = |pid: i32| super::processes::processes().into_iter().find(|process| process.pid == pid).unwrap().state;
    let own = child.id().unwrap() as i32;
    signal(&child, Signal::SIGTSTP);
    eventually(async || state(own) == 'T' && state(command) == 'T').await;
    signal(&child, Signal::SIGCONT);
    eventually(async || state(own) == 'S' && state(command) == 'S').await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(shell_code(child.wait().await.unwrap()), 143);
}
