use std::{
    env,
    io::{self, BufRead, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, setsid},
};

use crate::client::Moment;

/// How long `lockable run` has to do it by itself.
const GRACE: Duration = Duration::from_millis(500);
/// How long to sleep at most: timers stand still while the machine sleeps.
const TICK: Duration = Duration::from_millis(100);

/// Ends a command in time when `lockable run` cannot, because it was stopped or
/// killed. Started by it, and told by its standard input
#[derive(Debug, clap::Args)]
pub struct Watchdog {
    #[arg(long)]
    kill_after_ms: u64,
}

/// The watchdog, for who starts it.
pub(super) struct Watch(Option<ChildStdin>);

impl Watch {
    pub fn start(kill_after: Duration) -> io::Result<Self> {
        let mut command = Command::new(own_program()?);
        command.arg0("lockable").args(["watchdog", "--kill-after-ms", &kill_after.as_millis().to_string()]);
        let process = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self(process.stdin))
    }

    /// Which processes it is to end.
    pub fn group(&mut self, group: Pid) {
        self.tell(&format!("group {group}"));
    }

    /// Until when the lock can be relied on.
    pub fn until(&mut self, deadline: Moment) {
        self.tell(&format!("until {}", deadline.as_nanos()));
    }

    /// There is nothing to watch any more. It is not waited for: it may have been
    /// stopped.
    pub fn end(mut self) {
        self.tell("end");
    }

    fn tell(&mut self, line: &str) {
        if let Some(input) = &mut self.0 {
            let _ = input.write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// This program, on Linux even after its file was replaced.
fn own_program() -> io::Result<PathBuf> {
    let own = PathBuf::from("/proc/self/exe");
    if own.exists() { Ok(own) } else { env::current_exe() }
}

/// Watches until it is told to end, or has ended the command.
#[expect(clippy::disallowed_methods, reason = "this process has no runtime whose workers it would stop")]
pub fn watchdog(watchdog: &Watchdog) {
    // What is meant for the terminal's processes is not for this one.
    let _ = setsid();
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let kill_after = Duration::from_millis(watchdog.kill_after_ms);
    let grace = GRACE.min(kill_after / 2);
    let mut group = None;
    let mut deadline: Option<Moment> = None;
    loop {
        let end = deadline.map(|deadline| deadline - kill_after + grace);
        match lines.recv_timeout(end.map_or(TICK, |end| end.rest().min(TICK))) {
            Ok(line) => match line.split_once(' ') {
                Some(("group", number)) => group = number.parse().ok().map(Pid::from_raw),
                Some(("until", nanos)) => deadline = nanos.parse().ok().map(Moment::from_nanos),
                _ => return,
            },
            // Who started it was killed.
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if deadline.is_some_and(|deadline| (deadline - kill_after + grace).rest().is_zero()) {
            break;
        }
    }
    let Some(group) = group else { return };
    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
        let _ = killpg(group, signal);
    }
    let kill_at = deadline.map_or(Moment::now(), |deadline| deadline.min(Moment::now() + kill_after));
    while !kill_at.rest().is_zero() {
        if killpg(group, None).is_err() {
            return;
        }
        thread::sleep(kill_at.rest().min(TICK));
    }
    let _ = killpg(group, Signal::SIGKILL);
}
