//! The processes of one case, found by an environment variable.

use std::{fs, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// This variable contains the folder of the case.
pub const MARK: &str = "TERMINAL_CASE";
/// This variable is set in a nested run.
pub const INNER: &str = "TERMINAL_INNER";

#[derive(Debug)]
pub struct Process {
    pub pid: Pid,
    /// Its id in its own PID namespace.
    number: String,
    /// The file name of the program.
    pub program: String,
    is_inner: bool,
}

/// All processes of the case with this folder.
pub fn marked(folder: &Path) -> Vec<Process> {
    let mark = format!("{MARK}={}", folder.display());
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Process::read(pid, &mark)).collect()
}

/// The processes of the program `job`, which writes the time.
pub fn jobs(folder: &Path) -> Vec<Pid> {
    marked(folder).iter().filter(|process| process.program == "job").map(|process| process.pid).collect()
}

pub fn is_stopped(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('T'))
}

/// Kills all processes of the case.
pub fn kill_all(folder: &Path) {
    for process in marked(folder) {
        let _ = kill(process.pid, Signal::SIGKILL);
    }
}

impl Process {
    fn read(pid: i32, mark: &str) -> Option<Self> {
        let path = Path::new("/proc").join(pid.to_string());
        let environment = fs::read(path.join("environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        if !variables.clone().any(|variable| variable == mark.as_bytes()) {
            return None;
        }
        let is_inner = variables.any(|variable| variable.starts_with(INNER.as_bytes()));
        let status = fs::read_to_string(path.join("status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let number = numbers.split_whitespace().last()?.to_owned();
        let program = fs::read_link(path.join("exe")).ok()?.file_name()?.to_str()?.to_owned();
        Some(Self { pid: Pid::from_raw(pid), number, program, is_inner })
    }
}

/// The wrapper, which has written its id into `wrapper.pid`.
pub fn wrapper(folder: &Path, program: &str) -> Option<Pid> {
    let number = number_in(folder, "wrapper.pid")?;
    marked(folder).into_iter().find(|process| process.number == number && process.program == program).map(|it| it.pid)
}

/// The direct child of the wrapper, which has written its id into `command.pid`.
pub fn command(folder: &Path) -> Option<Pid> {
    let number = number_in(folder, "command.pid")?;
    marked(folder).into_iter().find(|process| process.number == number).map(|it| it.pid)
}

/// The other process that runs the wrapper's program.
pub fn watchdog(folder: &Path, program: &str) -> Option<Pid> {
    let [wrapper, command] = ["wrapper.pid", "command.pid"].map(|file| number_in(folder, file).unwrap_or_default());
    let is_other = |process: &Process| process.number != wrapper && process.number != command;
    let mut others = marked(folder).into_iter().filter(|process| process.program == program && !process.is_inner);
    others.find(is_other).map(|process| process.pid)
}

fn number_in(folder: &Path, file: &str) -> Option<String> {
    let text = fs::read_to_string(folder.join(file)).ok()?;
    text.ends_with('\n').then(|| text.trim().to_owned())
}
