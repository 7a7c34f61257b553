//! The processes of a run, as `/proc` shows them.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Child;

use crate::support::eventually;

#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub state: char,
    pub line: String,
}

/// All processes of the machine.
pub fn processes() -> Vec<Process> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| read(entry.file_name().to_str()?)).collect()
}

fn read(pid: &str) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Process { pid: pid.parse().ok()?, parent, state, line: line.trim_end_matches('\0').replace('\0', " ") })
}

/// Whether a process other than `lockable` has this argument.
pub fn runs(word: &str) -> bool {
    processes().iter().any(|process| is_of(process, word))
}

fn is_of(process: &Process, word: &str) -> bool {
    !process.line.contains("lockable") && process.line.split(' ').any(|argument| argument == word)
}

/// The number of `sleep` processes with this argument.
pub fn count(word: &str) -> usize {
    processes().iter().filter(|process| is_of(process, word) && process.line.starts_with("sleep")).count()
}

/// Waits for a `sleep` with this argument.
pub async fn find(word: &str) -> Process {
    let mut found = None;
    eventually(async || {
        found = processes().into_iter().find(|process| is_of(process, word) && process.line.starts_with("sleep"));
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// The watchdog of a run.
pub fn watchdog_of(run: &Child) -> Pid {
    let run = run.id().unwrap() as i32;
    let found = processes().into_iter().find(|process| process.parent == run && process.line == "lockable watchdog");
    Pid::from_raw(found.unwrap().pid)
}

pub fn signal_watchdog_of(run: &Child, signal: Signal) {
    kill(watchdog_of(run), signal).unwrap();
}

/// The number of zombies among the descendants of a process.
pub fn zombies_below(ancestor: i32) -> usize {
    let all = processes();
    let is_below = |mut pid: i32| {
        loop {
            match all.iter().find(|process| process.pid == pid) {
                _ if pid == ancestor => return true,
                Some(process) => pid = process.parent,
                None => return false,
            }
        }
    };
    all.iter().filter(|process| process.state == 'Z' && is_below(process.pid)).count()
}
