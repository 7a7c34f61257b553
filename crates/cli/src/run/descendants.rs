//! All processes that a command has started, whatever their group, session or parent.
//!
//! This process is their subreaper: the kernel makes it the parent of orphans. Therefore no
//! descendant is left when this process has no children.

use std::{collections::HashMap, fs, io, process, time::Duration};

use lockable_client::BootTime;
#[cfg(target_os = "linux")]
use nix::sys::prctl;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;

/// How long a killed process may remain: freeing much memory takes time.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the processes of a killed cgroup may remain.
const CGROUP_TIMEOUT: Duration = Duration::from_secs(1);
/// Pauses between two scans for remaining processes.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ExitStatus {
    Code(u8),
    Signal(i32),
}

/// A process in this process's PID namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessInfo {
    pub pid: i32,
    pub name: String,
    /// The start time, which distinguishes processes that reuse an id. Zero if unknown.
    started: u64,
    /// The ids of the process and its parent in `/proc`, which may belong to another PID namespace.
    number: i32,
    parent: i32,
}

/// Makes this process the subreaper of its descendants.
pub(super) fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    let _ = prctl::set_child_subreaper(true);
}

/// The ids in `/proc` of children that this process had before it executed `lockable`, as after a
/// shell's `exec`.
pub(super) fn own_children() -> Vec<i32> {
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    children.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// Waits for all ended children. Returns whether other children remain.
pub(super) fn reap(mut has_ended: impl FnMut(i32, ExitStatus)) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let ending = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => ExitStatus::Code(code as u8),
                    (_, Some(number)) => ExitStatus::Signal(number),
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

/// This process's descendants, without the `excluded` processes and their descendants.
pub(super) fn descendants(excluded: &[i32]) -> Vec<ProcessInfo> {
    let mut children: HashMap<i32, Vec<ProcessInfo>> = HashMap::new();
    for process in list_processes() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut parents = vec![own_number()];
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if !excluded.contains(&child.number) {
                parents.push(child.number);
                found.push(child);
            }
        }
    }
    found
}

/// Sends a signal to each process. Returns the processes that this user is not permitted to signal.
pub(super) fn signal_all(processes: Vec<ProcessInfo>, signal: Signal) -> Vec<ProcessInfo> {
    let is_denied = |process: &ProcessInfo| process.signal(signal) == Err(rustix::io::Errno::PERM);
    processes.into_iter().filter(is_denied).collect()
}

impl ProcessInfo {
    fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
            // The pidfd is opened before the check, so that a reused id is not signaled.
            let process = pidfd_open(pid, PidfdFlags::empty());
            if !self.is_same_process() {
                return Ok(());
            }
            // Kernels before 5.3 lack pidfds, and sandboxes may forbid them.
            if process.is_ok_and(|process| pidfd_send_signal(process, signal).is_ok()) {
                return Ok(());
            }
        }
        kill_process(pid, signal)
    }

    #[cfg(target_os = "linux")]
    fn is_same_process(&self) -> bool {
        self.started == 0 || Self::read(self.number).is_some_and(|process| process.started == self.started)
    }

    /// A child on a system without `/proc`.
    fn child(pid: i32) -> Self {
        Self { pid, name: "the command".to_owned(), started: 0, number: pid, parent: 0 }
    }

    /// Reads `/proc/N/stat`, see proc(5).
    fn read(number: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        // The name may contain spaces and parentheses.
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
fn list_processes() -> Vec<ProcessInfo> {
    let Ok(entries) = fs::read_dir("/proc") else { return list_processes_with_ps().unwrap_or_default() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let processes = numbers.filter_map(ProcessInfo::read);
    if own_number() == process::id() as i32 {
        return processes.collect();
    }
    let depth = ids(own_number()).len();
    // NSpid lists one id for each namespace, from that of /proc inwards.
    let translated = |mut process: ProcessInfo| {
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

/// Lists all processes with `ps`, for a system without `/proc`.
fn list_processes_with_ps() -> io::Result<Vec<ProcessInfo>> {
    let mut ps = process::Command::new("ps");
    let ps = ps.args(["-A", "-o", "pid=,ppid=,comm="]).stdout(process::Stdio::piped()).spawn()?;
    // `ps` lists itself, too.
    let own = ps.id() as i32;
    let listed = ps.wait_with_output()?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    let process = |line: &str| {
        let mut words = line.split_whitespace();
        let (number, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (number != own).then(|| ProcessInfo { pid: number, name: words.collect(), started: 0, number, parent })
    };
    Ok(listed.lines().filter_map(process).collect())
}

/// Ends all descendants: sends SIGTERM once, and SIGKILL repeatedly from `kill_at` until none is left.
#[derive(Debug)]
pub(super) struct Termination {
    excluded: Vec<i32>,
    kill_at: BootTime,
    kill_begun: Option<BootTime>,
    has_sent_term: bool,
    pause: Duration,
    /// The number of consecutive scans that found no process.
    empty_scans: u32,
}

/// The processes that remain after a step of a [`Termination`].
pub(super) enum Remaining {
    None,
    /// Take the next step after this pause.
    Some(Duration),
    /// Processes of other users, or processes that do not end.
    Unkillable(Vec<ProcessInfo>),
}

impl Termination {
    /// A `kill_at` in the past skips SIGTERM.
    pub fn new(excluded: Vec<i32>, kill_at: BootTime) -> Self {
        Self { excluded, kill_at, kill_begun: None, has_sent_term: false, pause: PAUSE_MIN, empty_scans: 0 }
    }

    /// Moves the time of SIGKILL to an earlier time.
    pub fn bring_forward(&mut self, kill_at: BootTime) {
        self.kill_at = self.kill_at.min(kill_at);
    }

    /// Takes a step. The caller has waited for all ended children. `command` is the running command,
    /// for systems without a process list.
    pub fn step(&mut self, has_children: bool, command: Option<i32>, cgroup: Option<&Cgroup>) -> Remaining {
        if !has_children {
            return Remaining::None;
        }
        let mut processes = descendants(&self.excluded);
        if processes.is_empty() {
            processes.extend(command.map(ProcessInfo::child));
        }
        if processes.is_empty() {
            self.empty_scans += 1;
            // One scan misses a process whose parent ends meanwhile.
            if !self.excluded.is_empty() && self.empty_scans > 1 {
                return Remaining::None;
            }
        } else {
            self.empty_scans = 0;
        }
        if self.kill_at.remaining().is_zero() {
            let found = processes.clone();
            let denied = signal_all(processes, Signal::KILL);
            // A cgroup kill does not report whether it reached a process.
            let timeout = if cgroup.is_some() { CGROUP_TIMEOUT } else { Duration::ZERO };
            let begun = *self.kill_begun.get_or_insert_with(BootTime::now);
            cgroup.inspect(|cgroup| cgroup.kill());
            let is_denied_for_all = !found.is_empty() && denied.len() == found.len() && begun.elapsed() >= timeout;
            if is_denied_for_all || begun.elapsed() > KILL_TIMEOUT {
                return Remaining::Unkillable(found);
            }
        } else if !self.has_sent_term {
            self.has_sent_term = true;
            signal_all(processes.clone(), Signal::TERM);
            // A stopped process handles SIGTERM only after SIGCONT.
            signal_all(processes, Signal::CONT);
        }
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Remaining::Some(self.pause.min(self.kill_at.remaining().max(PAUSE_MIN)))
    }
}
