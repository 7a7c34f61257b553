//! The script ends all processes of the command before the lock is granted to another holder, whichever
//! process dies.

use std::{fs, path::Path, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{SHELLS, script};
use crate::support::{
    Pod,
    command::{is_held, start_ready},
    eventually,
};

/// Jobs that write to a file in a loop: directly, in a new process group, in a new session without
/// parents, and with TERM ignored.
const JOBS: [&str; 4] = [
    "while :; do date >>\"$0\"; sleep 0.05; done",
    "timeout 60 sh -c 'while :; do date >>\"$0\"; sleep 0.05; done' \"$0\"; :",
    "(setsid sh -c 'while :; do date >>\"$0\"; sleep 0.05; done' \"$0\" &); sleep 60",
    "trap '' TERM; while :; do date >>\"$0\"; sleep 0.05; done",
];

/// The processes whose command lines contain all of these words.
fn processes(words: &[&str]) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let with_words = processes.filter(|process| {
        let line = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        words.iter().all(|word| line.contains(word))
    });
    with_words.filter_map(|process| Some(Pid::from_raw(process.file_name().to_str()?.parse().ok()?))).collect()
}

/// The renewer or the guard of the script with this folder for temporary files. The process writes its
/// id when it has joined the other one.
fn helper(folder: &Path, role: &str) -> Option<Pid> {
    let mut folders = fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let id = fs::read_to_string(folders.next()?.path().join(role)).ok()?;
    Some(Pid::from_raw(id.split_once(':')?.0.parse().ok()?))
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |data| data.len())
}

/// An event during a run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Broken,
    WrapperKilled,
    RenewerStopped,
    BothHelpersKilled,
    WrapperKilledAndRenewerStopped,
}

async fn assert_command_is_ended(pod: &Pod, token: &str, shell: &[&str], job: &str, event: Event) {
    let client = pod.client(token);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("written");
    let name = format!("{event:?}");
    let mut command = script(shell, pod, token, &[&name, "sh", "-c", job, file.to_str().unwrap()]);
    command.env("TMPDIR", folder.path());
    let mut child = command.spawn().unwrap();
    eventually(async || size(&file) > 100).await;
    let temporary = folder.path().to_str().unwrap();
    let [renewer, guard] = ["renewer", "guard"].map(|role| helper(folder.path(), role).unwrap());
    let wrapper = Pid::from_raw(child.id().unwrap() as i32);
    match event {
        Event::Broken => _ = client.request("DELETE", &format!("/v1/locks/{name}"), &[]).await,
        Event::WrapperKilled => kill(wrapper, Signal::SIGKILL).unwrap(),
        Event::RenewerStopped => kill(renewer, Signal::SIGSTOP).unwrap(),
        Event::BothHelpersKilled => {
            kill(renewer, Signal::SIGKILL).unwrap();
            kill(guard, Signal::SIGKILL).unwrap();
        }
        Event::WrapperKilledAndRenewerStopped => {
            kill(renewer, Signal::SIGSTOP).unwrap();
            kill(wrapper, Signal::SIGKILL).unwrap();
        }
    }
    if event != Event::Broken {
        let next = client.get(&format!("/v1/acquire/{name}?owner=next&wait=30s")).await;
        assert_eq!(next.json["response"], true);
        let written = size(&file);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(size(&file), written, "{shell:?} {event:?} {job}: written while another held the lock");
        client.get(&format!("/v1/release/{name}?owner=next")).await;
    }
    let code = child.wait().await.unwrap().code();
    let is_wrapper_killed = matches!(event, Event::WrapperKilled | Event::WrapperKilledAndRenewerStopped);
    assert_eq!(code, if is_wrapper_killed { None } else { Some(74) }, "{shell:?} {event:?} {job}");
    eventually(async || processes(&[temporary]).is_empty()).await;
    eventually(async || fs::read_dir(folder.path()).unwrap().count() == 1).await;
}

async fn assert_all_jobs_are_ended(event: Event) {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let shell_of = |number: usize| SHELLS[number % SHELLS.len()];
    for round in 0..SHELLS.len() {
        // The rounds run each job in each shell.
        let mut runs = Vec::new();
        for (number, job) in JOBS.into_iter().enumerate() {
            runs.push((shell_of(number + round), job));
        }
        for (shell, job) in runs {
            assert_command_is_ended(&pod, &token, shell, job, event).await;
        }
        if event != Event::Broken && event != Event::WrapperKilled {
            // Each takes a whole lease.
            break;
        }
    }
}

#[tokio::test]
async fn script_ends_all_processes_when_lock_is_broken() {
    assert_all_jobs_are_ended(Event::Broken).await;
}

#[tokio::test]
async fn script_ends_all_processes_when_it_is_killed() {
    assert_all_jobs_are_ended(Event::WrapperKilled).await;
}

#[tokio::test]
async fn script_ends_all_processes_when_renewer_is_stopped() {
    assert_all_jobs_are_ended(Event::RenewerStopped).await;
}

#[tokio::test]
async fn script_ends_all_processes_when_both_helpers_are_killed() {
    assert_all_jobs_are_ended(Event::BothHelpersKilled).await;
}

#[tokio::test]
async fn script_ends_all_processes_when_it_is_killed_and_its_renewer_is_stopped() {
    assert_all_jobs_are_ended(Event::WrapperKilledAndRenewerStopped).await;
}

#[tokio::test]
async fn killed_helper_is_restarted_by_the_other() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    for shell in SHELLS {
        let folder = tempfile::tempdir().unwrap();
        let temporary = folder.path().to_str().unwrap();
        let mut command = script(shell, &pod, &token, &["replaced", "sh", "-c", "echo ready; read -r line"]);
        command.env("TMPDIR", folder.path()).stdin(Stdio::piped());
        let mut child = start_ready(command).await;
        for role in ["renewer", "guard", "renewer"] {
            let killed = helper(folder.path(), role).unwrap();
            kill(killed, Signal::SIGKILL).unwrap();
            eventually(async || helper(folder.path(), role).is_some_and(|other| other != killed)).await;
        }
        assert!(is_held(&client, "replaced").await, "{shell:?}");
        drop(child.stdin.take());
        assert_eq!(child.wait().await.unwrap().code(), Some(1), "{shell:?}");
        assert!(!is_held(&client, "replaced").await, "{shell:?}");
        eventually(async || processes(&[temporary]).is_empty()).await;
    }
}

#[tokio::test]
async fn script_ends_background_processes_before_release_unless_told_to_leave_them() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    for shell in SHELLS {
        let folder = tempfile::tempdir().unwrap();
        let job = "(setsid sh -c 'while :; do date >>\"$0\"; sleep 0.05; done' \"$0\" &); \
                   until [ -s \"$0\" ]; do sleep 0.05; done; exit 3";
        for (leave, is_left) in [("", false), ("0", false), ("False", false), ("1", true)] {
            let file = folder.path().join(format!("written-{leave}"));
            let path = file.to_str().unwrap();
            let mut command = script(shell, &pod, &token, &["left", "sh", "-c", job, path]);
            command.env("LOCKABLE_LEAVE_BACKGROUND", leave).stdout(Stdio::null()).stderr(Stdio::null());
            assert_eq!(command.status().await.unwrap().code(), Some(3), "{shell:?} {leave:?}");
            assert!(!is_held(&client, "left").await, "{shell:?} {leave:?}");
            let left = processes(&[path]);
            assert_eq!(!left.is_empty(), is_left, "{shell:?} {leave:?}");
            for process in left {
                let _ = kill(process, Signal::SIGKILL);
            }
        }
    }
}
