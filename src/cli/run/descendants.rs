//! All processes that a command has started, whatever their group, session or parent.
//!
//! The kernel gives the orphans among them to this process, which is their subreaper. So a process
//! without children has no descendants either: nothing can have escaped.

use std::{collections::HashMap, fs, io, process, time::Duration};

#[cfg(target_os = "linux")]
use nix::sys::prctl;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;
use crate::client::BootTime;

/// How long a killed process may be there still: freeing much memory takes time.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How long what a control group kills may be there still.
const CGROUP_PATIENCE: Duration = Duration::from_secs(1);
/// Pauses between two looks at what is left.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ending {
    Code(u8),
    Signal(i32),
}

/// A process as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub pid: i32,
    pub name: String,
    /// When it was started: two processes with one id differ in it. Zero if that is not known.
    started: u64,
    /// Its number and its parent's in `/proc`, which may be that of another namespace.
    number: i32,
    parent: i32,
}

/// Has the kernel give the orphans among this process's descendants to it.
pub(super) fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    let _ = prctl::set_child_subreaper(true);
}

/// The children that this process had before it executed `lockable`, as after a shell's `exec`:
/// their numbers in `/proc`.
pub(super) fn own_children() -> Vec<i32> {
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    children.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// Waits for all children that have ended. Returns whether there are others.
pub(super) fn reap(mut has_ended: impl FnMut(i32, Ending)) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let ending = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Ending::Code(code as u8),
                    (_, Some(number)) => Ending::Signal(number),
                    _ => continue,
                };
                has_ended(pid.as_raw_nonzero().get(), ending);
            }
            Ok(None) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// This process's descendants but for those whose numbers are `spared`, and their descendants.
pub(super) fn descendants(spared: &[i32]) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in table() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut parents = vec![own_number()];
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if !spared.contains(&child.number) {
                parents.push(child.number);
                found.push(child);
            }
        }
    }
    found
}

/// Sends a signal to every descendant. Returns those that this user must not signal.
pub(super) fn signal_all(processes: Vec<Process>, signal: Signal) -> Vec<Process> {
    let is_denied = |process: &Process| process.signal(signal) == Err(rustix::io::Errno::PERM);
    processes.into_iter().filter(is_denied).collect()
}

impl Process {
    fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
            // The id is looked up once, and checked to be that of the same process still.
            let process = pidfd_open(pid, PidfdFlags::empty());
            if !self.is_there() {
                return Ok(());
            }
            // Kernels before 5.3 lack pidfds, and sandboxes forbid what they do not know.
            if process.is_ok_and(|process| pidfd_send_signal(process, signal).is_ok()) {
                return Ok(());
            }
        }
        kill_process(pid, signal)
    }

    #[cfg(target_os = "linux")]
    fn is_there(&self) -> bool {
        self.started == 0 || Self::read(self.number).is_some_and(|process| process.started == self.started)
    }

    /// A child, where there is no `/proc`.
    fn child(pid: i32) -> Self {
        Self { pid, name: "the command".to_owned(), started: 0, number: pid, parent: 0 }
    }

    /// Reads `/proc/N/stat`, see proc(5).
    fn read(number: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        // The name may contain anything.
        let (before, after) = stat.rsplit_once(") ")?;
        let name = before.split_once('(')?.1.to_owned();
        let mut fields = after.split(' ');
        let parent = fields.nth(1)?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        Some(Self { pid: number, name, started, number, parent })
    }
}

/// This process's number in `/proc`: another than its id when that is the `/proc` of another
/// namespace, as after `unshare --pid --fork`.
fn own_number() -> i32 {
    let number = fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok());
    number.unwrap_or(process::id() as i32)
}

/// All processes of the machine. A process that ends meanwhile is left out.
fn table() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return table_of_ps().unwrap_or_default() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let processes = numbers.filter_map(Process::read);
    if own_number() == process::id() as i32 {
        return processes.collect();
    }
    let depth = ids(own_number()).len();
    // A process has one id in each namespace from the one of /proc inwards.
    let translated = |mut process: Process| {
        process.pid = *ids(process.number).get(depth.checked_sub(1)?)?;
        Some(process)
    };
    processes.filter_map(translated).collect()
}

fn ids(number: i32) -> Vec<i32> {
    let status = fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    ids.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// All processes of a system without `/proc`.
fn table_of_ps() -> io::Result<Vec<Process>> {
    let listed = process::Command::new("ps").args(["-A", "-o", "pid=,ppid=,comm="]).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    let process = |line: &str| {
        let mut words = line.split_whitespace();
        let (number, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Process { pid: number, name: words.collect(), started: 0, number, parent })
    };
    Ok(listed.lines().filter_map(process).collect())
}

/// Ends all descendants: SIGTERM, and SIGKILL from `kill_at` until nothing is left.
#[derive(Debug)]
pub(super) struct Sweep {
    spared: Vec<i32>,
    kill_at: BootTime,
    kill_begun: Option<BootTime>,
    is_asked: bool,
    pause: Duration,
    /// Several looks in a row at which there was nothing.
    looks_without: u32,
}

/// What a step of a [`Sweep`] has left.
pub(super) enum Left {
    Nothing,
    /// Look again after this pause.
    Some(Duration),
    /// Processes of other users, or that do not end.
    Unkillable(Vec<Process>),
}

impl Sweep {
    /// With `kill_at` in the past there is no SIGTERM.
    pub fn new(spared: Vec<i32>, kill_at: BootTime) -> Self {
        Self { spared, kill_at, kill_begun: None, is_asked: false, pause: PAUSE_MIN, looks_without: 0 }
    }

    /// Sends SIGKILL then, if it was to be later.
    pub fn hurry(&mut self, kill_at: BootTime) {
        self.kill_at = self.kill_at.min(kill_at);
    }

    /// Takes a step, after all children that have ended were waited for. `command` is the child
    /// that is known to be there, if so.
    pub fn step(&mut self, has_children: bool, command: Option<i32>, cgroup: Option<&Cgroup>) -> Left {
        if !has_children {
            return Left::Nothing;
        }
        let mut processes = descendants(&self.spared);
        if processes.is_empty() {
            processes.extend(command.map(Process::child));
        }
        if processes.is_empty() {
            self.looks_without += 1;
            // One look may miss a process whose parent ends during it.
            if !self.spared.is_empty() && self.looks_without > 1 {
                return Left::Nothing;
            }
        } else {
            self.looks_without = 0;
        }
        if self.kill_at.rest().is_zero() {
            let there = processes.clone();
            let denied = signal_all(processes, Signal::KILL);
            // It does not answer by whether it was permitted.
            let patience = if cgroup.is_some() { CGROUP_PATIENCE } else { Duration::ZERO };
            let begun = *self.kill_begun.get_or_insert_with(BootTime::now);
            cgroup.inspect(|cgroup| cgroup.kill());
            let is_denied_by_all = !there.is_empty() && denied.len() == there.len() && begun.elapsed() >= patience;
            if is_denied_by_all || begun.elapsed() > KILL_PATIENCE {
                return Left::Unkillable(there);
            }
        } else if !self.is_asked {
            self.is_asked = true;
            signal_all(processes.clone(), Signal::TERM);
            // A stopped process acts on it when it continues.
            signal_all(processes, Signal::CONT);
        }
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Left::Some(self.pause.min(self.kill_at.rest().max(PAUSE_MIN)))
    }
}
