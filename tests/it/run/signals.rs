//! Signals, and the state that a command inherits.

use std::time::Instant;

use nix::{libc, sys::signal::Signal};

use super::{SOON, processes::runs, run, shell_code};
use crate::support::{
    Pod,
    command::{is_held, signal, start_ready},
    run_shell,
};

/// Prints each received signal, for two seconds. A shell would lose simultaneous signals.
const LISTENER: &str = r"
import os, signal, time
received = []
for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, lambda number, _: received.append(number))
os.write(1, b'ready\n')
end = time.time() + 2
while time.time() < end:
    time.sleep(0.05)
print(*received, sep='\n')
";

#[tokio::test]
async fn each_ending_signal_is_forwarded_once() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let mut sent = vec![1, 2, 3, 10, 12, 14, 15, 24, 25, 26, 27, 29, 30, 34, 40, 64];
    let child = start_ready(run(&pod, &token, &["signalled", "--", "python3", "-c", LISTENER])).await;
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
        let begun = Instant::now();
        let status = child.wait().await.unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(number));
        assert!(begun.elapsed() < SOON && !runs("4791") && !is_held(&client, "signalled").await, "{number}");
    }
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
    crate::support::eventually(async || state(own) == 'T' && state(command) == 'T').await;
    signal(&child, Signal::SIGCONT);
    crate::support::eventually(async || state(own) == 'S' && state(command) == 'S').await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(shell_code(child.wait().await.unwrap()), 143);
}
