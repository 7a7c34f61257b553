//! The shell script for pipelines without the binary, and the pipeline examples.

mod deaths;
mod settings;
mod terminal;

use std::{
    os::unix::process::ExitStatusExt,
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::{
    run::processes::runs,
    support::{
        Pod,
        command::{is_held, signal, start_ready},
        eventually, python,
    },
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ci/lockable.sh");
/// Limit for the end of a command that would not end by itself.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// The lease of most tests, the shortest that the script accepts.
const LEASE: Duration = Duration::from_secs(6);
const SHELLS: [&[&str]; 4] = [&["dash"], &["bash"], &["busybox", "sh"], &["zsh"]];

fn script(shell: &[&str], pod: &Pod, token: &str, args: &[&str]) -> Command {
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).arg(SCRIPT).args(args);
    command
        .env("LOCKABLE_URL", pod.origin())
        .env("LOCKABLE_AUTH_TOKEN", token)
        .env("LOCKABLE_LEASE", LEASE.as_secs().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn script_runs_command_and_always_releases_lock() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/busy?owner=another").await.json["response"], true);
    for shell in SHELLS {
        let echo = "cat; echo $LOCKABLE_LOCK $LOCKABLE_FENCING_TOKEN; exit 7";
        let mut child = script(shell, &pod, &token, &["a/b", "sh", "-c", echo]).stdin(Stdio::piped()).spawn().unwrap();
        eventually(async || is_held(&client, "a/b").await).await;
        let fence = client.get("/v1/locks/a/b").await.json["holder"]["fencing_token"].to_string();
        child.stdin.take().unwrap().write_all(b"read\n").await.unwrap();
        let ran = child.wait_with_output().await.unwrap();
        let [said, complained] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!((ran.status.code(), said), (Some(7), format!("read\na/b {fence}\n")), "{shell:?}: {complained}");
        assert!(complained.is_empty() && !is_held(&client, "a/b").await, "{shell:?}: {complained}");

        let ran =
            script(shell, &pod, &token, &["busy", "echo", "no"]).env("LOCKABLE_WAIT", "1").output().await.unwrap();
        assert_eq!((ran.status.code(), ran.stdout.len()), (Some(75), 0), "{shell:?}");
        assert_eq!(client.get("/v1/locks/busy").await.json["waiting"], 0, "{shell:?}");
        let ran = script(shell, &pod, "nobody", &["a", "echo", "no"]).output().await.unwrap();
        let complained = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(69), "{shell:?}");
        assert!(complained.contains("the token is from LOCKABLE_AUTH_TOKEN"), "{shell:?}: {complained}");
    }
}

#[tokio::test]
async fn script_forwards_signals_and_cancels_its_wait() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/busy?owner=another").await.json["response"], true);
    for shell in SHELLS {
        for sent in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            let command = ["signalled", "sh", "-c", "echo ready; sleep 600 & wait"];
            let mut child = start_ready(script(shell, &pod, &token, &command)).await;
            signal(&child, sent);
            assert_eq!(child.wait().await.unwrap().signal(), Some(sent as i32), "{shell:?} {sent}");
            assert!(!is_held(&client, "signalled").await, "{shell:?} {sent}");

            let mut child = script(shell, &pod, &token, &["busy", "true"]).spawn().unwrap();
            eventually(async || client.get("/v1/locks/busy").await.json["waiting"] == 1).await;
            signal(&child, sent);
            assert_eq!(child.wait().await.unwrap().signal(), Some(sent as i32), "{shell:?} {sent}");
            assert_eq!(client.get("/v1/locks/busy").await.json["waiting"], 0, "{shell:?} {sent}");
        }
    }
}

#[tokio::test]
async fn script_kills_command_that_ignores_term() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    for shell in SHELLS {
        let ignoring = "trap 'echo TERM' TERM; (trap '' TERM; exec setsid sleep 4795) & echo ready; \
                        while :; do sleep 0.1; done";
        for (command, code, said, complaint) in [
            (
                ignoring,
                137,
                "TERM\n",
                "lockable: the command still runs 1 s after TERM; all of its processes are killed",
            ),
            // Only a descendant ignores the signal.
            ("(trap '' TERM; exec setsid sleep 4795) & echo ready; wait", 143, "", ""),
        ] {
            let child = start_ready(script(shell, &pod, &token, &["killed", "sh", "-c", command])).await;
            signal(&child, Signal::SIGTERM);
            let ran = timeout(END_TIMEOUT, child.wait_with_output()).await.expect("the command runs on").unwrap();
            let [stdout, stderr] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
            let status = ran.status.code().or(ran.status.signal().map(|number| 128 + number));
            assert_eq!((status, &*stdout), (Some(code), said), "{shell:?} {command}: {stderr}");
            assert!(stderr.contains(complaint), "{shell:?} {command}: {stderr}");
            assert!(!runs("4795") && !is_held(&client, "killed").await, "{shell:?} {command}");
        }
    }
}

#[tokio::test]
async fn script_renews_lease_and_ends_command_when_lock_is_lost() {
    let mut pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    // A sixth of it remains for the kill on a busy machine.
    let lease = LEASE * 2;
    let folder = tempfile::tempdir().unwrap();
    let stubborn =
        "trap '' TERM; echo ready; while :; do date +%s%N >\"$0\".new; mv \"$0\".new \"$0\"; sleep 0.1; done";
    let mut children = Vec::new();
    for (number, shell) in SHELLS.into_iter().enumerate() {
        let kept = format!("kept-{number}");
        let file = folder.path().join(&kept);
        let mut command = script(shell, &pod, &token, &[&kept, "sh", "-c", stubborn, file.to_str().unwrap()]);
        command.env("LOCKABLE_LEASE", lease.as_secs().to_string());
        children.push(start_ready(command).await);
    }
    let begun = Instant::now();
    eventually(async || {
        for number in 0..SHELLS.len() {
            assert!(is_held(&client, &format!("kept-{number}")).await);
        }
        begun.elapsed() > lease + Duration::from_secs(1)
    })
    .await;
    assert_eq!(client.request("DELETE", "/v1/locks/kept-0", &[]).await.json["response"], true);
    let broken = children.remove(0).wait_with_output().await.unwrap();
    assert_eq!(broken.status.code(), Some(74), "{}", String::from_utf8_lossy(&broken.stderr));
    assert!(is_held(&client, "kept-1").await, "only the broken lock is lost");

    pod.kill();
    // All confirmed heartbeats were before this time.
    let gone = SystemTime::now();
    for (number, child) in children.into_iter().enumerate() {
        let ran = child.wait_with_output().await.unwrap();
        assert_eq!(ran.status.code(), Some(74), "{}", String::from_utf8_lossy(&ran.stderr));
        let written = std::fs::read_to_string(folder.path().join(format!("kept-{}", number + 1))).unwrap();
        let written = UNIX_EPOCH + Duration::from_nanos(written.trim().parse().unwrap());
        assert!(written < gone + lease, "the command ran after the lease expired: {:?}", written.duration_since(gone));
    }
}

/// The shell line of an example that runs the script, as the vendor's runner passes it to a shell.
fn command_in(example: &str) -> String {
    let line = example.lines().find(|line| !line.contains('#') && line.contains("lockable.sh deploy-prod")).unwrap();
    let line = line.trim().trim_start_matches("- ");
    let line =
        ["run: ", "command: ", "sh '"].iter().fold(line, |line, prefix| line.strip_prefix(prefix).unwrap_or(line));
    // Buildkite expands $ at the upload of a pipeline, and $$ to $.
    line.trim_end_matches('\'').replace("$$", "$")
}

#[tokio::test]
async fn every_example_deploys_while_it_holds_the_lock() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("ci")).unwrap();
    std::fs::copy(SCRIPT, folder.path().join("ci/lockable.sh")).unwrap();
    let deploy = folder.path().join("deploy.sh");
    std::fs::write(&deploy, "#!/bin/sh\necho ready\nread -r line\n").unwrap();
    std::fs::set_permissions(&deploy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for example in [
        include_str!("../../docs/ci/github-actions.yml"),
        include_str!("../../docs/ci/gitlab-ci.yml"),
        include_str!("../../docs/ci/buildkite.yml"),
        include_str!("../../docs/ci/Jenkinsfile"),
    ] {
        let line = command_in(example);
        let mut command = Command::new("sh");
        command.args(["-c", &line]).current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("LOCKABLE_URL", pod.origin()).env("LOCKABLE_AUTH_TOKEN", &token);
        command.env("BUILDKITE_JOB_ID", "4711").env("LOCKABLE_WAIT", "1800");
        let mut child = start_ready(command).await;
        assert!(is_held(&client, "deploy-prod").await, "{line}");
        child.stdin.take().unwrap().write_all(b"continue\n").await.unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(0), "{line}");
        assert!(!is_held(&client, "deploy-prod").await, "{line}");
    }
    let read = "import sys, yaml\nfor name in ('github-actions', 'gitlab-ci', 'buildkite'):\n    \
                assert yaml.safe_load(open(f'docs/ci/{name}.yml'))";
    python::run(&format!("import os\nos.chdir('{}')\n{read}", env!("CARGO_MANIFEST_DIR")), &[]).await;
}

#[tokio::test]
async fn cron_example_runs_job_on_one_machine() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, &token).unwrap();
    let job = include_str!("../../docs/ci/crontab").lines().last().unwrap();
    let line = job.split_once("lockable run").unwrap().1.replace("/usr/local/bin/nightly-report", "echo reported");
    let night = async || {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{} run{line}", env!("CARGO_BIN_EXE_lockable"))]);
        command.env("LOCKABLE_URL", pod.origin()).env("LOCKABLE_TOKEN_FILE", &file);
        let ran = command.output().await.unwrap();
        (ran.status.code(), String::from_utf8([ran.stdout, ran.stderr].concat()).unwrap())
    };
    assert_eq!(night().await, (Some(0), "reported\n".to_owned()));
    assert_eq!(pod.client(&token).get("/v1/acquire/nightly-report?owner=other").await.json["response"], true);
    assert_eq!(night().await, (Some(0), String::new()));
}
