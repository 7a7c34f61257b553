//! What happens while the lock is held: the command, the heartbeats and the watchdog.

use std::time::Duration;

use nix::{
    errno::Errno,
    libc,
    unistd::{getpid, getsid},
};

use super::{
    Caught, OnLost, Run, Signals,
    descendants::{Ending, Process},
    environment::environment,
    orders::{Order, Report, Start},
    signals,
    terminal::Terminal,
    watch::Watch,
};
use crate::{
    cli::say,
    client::{BootTime, Lock},
};

/// `EX_IOERR`: the command was stopped, or the lock was lost under it.
const LOST: Ending = Ending::Code(74);

/// How long the command has after SIGTERM, unless the lease is short.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// How long before the lease expires nothing of the command may run any more, unless the lease is
/// short: on a busy machine signals take effect late.
const KILL_MARGIN: Duration = Duration::from_millis(250);

/// A command that runs under a lock.
struct Held<'a> {
    run: &'a Run,
    lock: &'a Lock,
    watch: &'a mut Watch,
    signals: &'a mut Signals,
    kill_after: Duration,
    grace: Duration,
    is_lost: bool,
    ended: Option<Ending>,
}

/// What is to be done with the lock, and the end of `lockable run` itself.
pub(super) struct Over {
    pub ending: Ending,
    /// Not after a loss, nor while something goes on that cannot be ended.
    pub is_to_release: bool,
    /// Also when the watchdog noticed it first.
    pub is_lost: bool,
}

/// Runs the command until it and everything that it has started have ended.
pub(super) async fn run(run: &Run, lock: &Lock, watch: &mut Watch, signals: &mut Signals) -> Over {
    let lease = lock.grant().lease;
    let grace = run.kill_after.map_or(KILL_AFTER.min(lease / 4), |kill_after| kill_after.min(lease / 3));
    let kill_after = if run.on_lost == OnLost::Kill { Duration::ZERO } else { grace };
    let terminal = Terminal::save();
    let mut held = Held { run, lock, watch, signals, kill_after, grace, is_lost: false, ended: None };
    let over = held.start_and_watch().await;
    if let Some(terminal) = terminal.filter(|_| held.is_lost) {
        terminal.restore();
    }
    over
}

impl Held<'_> {
    async fn start_and_watch(&mut self) -> Over {
        if self.run.on_lost != OnLost::Ignore {
            self.watch.until(self.deadline());
        }
        // It may have been stopped while it waited, and continued too late.
        if (self.lock.deadline() - self.kill_after).rest().is_zero() {
            return expired();
        }
        self.watch.order(&Order::Start(Start {
            environment: environment(&self.run.lock.name, self.lock),
            kill_after_ms: self.kill_after.as_millis() as u64,
            grace_ms: self.grace.as_millis() as u64,
        }));
        let mut changes = self.lock.changes();
        loop {
            tokio::select! {
                report = self.watch.report() => {
                    let over = match report {
                        Some(report) => self.heed_report(report),
                        None => Some(self.end_without_watchdog().await),
                    };
                    if let Some(over) = over {
                        return over;
                    }
                }
                caught = self.signals.next() => self.heed_signal(caught),
                loss = self.lock.expiring(self.kill_after), if !self.is_lost => {
                    self.lose(&loss.to_string());
                }
                trouble = changes.next(), if !self.is_lost => {
                    if let Some(reason) = trouble {
                        say(&format!("heartbeats fail, and are tried again until the lease lapses: {reason}"));
                    }
                    if self.run.on_lost != OnLost::Ignore {
                        self.watch.until(self.deadline());
                    }
                }
            }
        }
    }

    fn heed_report(&mut self, report: Report) -> Option<Over> {
        match report {
            Report::Forked(_) | Report::Until(_) => {}
            Report::NotStarted(error) => return Some(not_started(self.run, error)),
            Report::Expired => return Some(expired()),
            Report::NotSignaled(number, process) => say(&format!(
                "cannot send {} to {}, which belongs to another user",
                signals::name(number),
                describe(&process)
            )),
            Report::Ending => {
                if !std::mem::replace(&mut self.is_lost, true) {
                    say("the lock may be lost: the watchdog ends the command");
                }
            }
            Report::Ended(ending) => {
                self.ended = Some(ending);
                self.signals.discard();
                self.watch.look_after();
            }
            Report::Gone => return Some(self.over(true)),
            Report::Left(processes) => {
                say(&unkillable(&processes, self.is_lost));
                return Some(self.over(false));
            }
        }
        None
    }

    fn heed_signal(&mut self, caught: Caught) {
        let Caught { number, .. } = caught;
        if number == libc::SIGCHLD {
            self.watch.look_after();
        } else if number == libc::SIGCONT {
            self.watch.order(&Order::Signal(number));
            // The lease may have expired meanwhile, and timers are late.
            if !self.is_lost && (self.lock.deadline() - self.kill_after).rest().is_zero() {
                self.lose("the lock may be lost: lockable was stopped for too long");
            }
        } else if signals::is_stop(number) {
            // The kernel's own stop the command by themselves.
            self.watch.order(&Order::SignalAll(number));
            signals::stop_by(number);
            self.watch.order(&Order::SignalAll(libc::SIGCONT));
        } else if self.ended.is_some() && caught.is_ending() {
            if caught.is_urgent() {
                self.watch.order(&Order::End(BootTime::now().as_nanos()));
            }
        } else if !self.has_reached_command(caught) {
            self.watch.order(&Order::Signal(number));
        }
    }

    /// Whether the terminal has sent the signal to the command, too.
    fn has_reached_command(&self, caught: Caught) -> bool {
        // The kernel tells the leader of a session alone that the terminal is gone.
        let is_for_leader = caught.number == libc::SIGHUP && getsid(None) == Ok(getpid());
        caught.is_from_terminal() && !is_for_leader && !self.watch.is_command_elsewhere()
    }

    fn lose(&mut self, reason: &str) {
        self.is_lost = true;
        say(reason);
        if self.run.on_lost != OnLost::Ignore {
            self.watch.order(&Order::End(self.kill_at().as_nanos()));
        }
    }

    fn kill_at(&self) -> BootTime {
        (BootTime::now() + self.kill_after).min(self.deadline().max(BootTime::now()))
    }

    /// When everything must have ended: a little before the lock can be granted to others.
    fn deadline(&self) -> BootTime {
        self.lock.deadline() - KILL_MARGIN.min(self.lock.grant().lease / 40)
    }

    /// Ends the command: without the watchdog it would survive a stop or the death of this process.
    async fn end_without_watchdog(&mut self) -> Over {
        say("the watchdog was killed or hangs, so the command is ended");
        let (ended, report) = self.watch.end_without(self.kill_at()).await;
        self.ended = self.ended.or(ended).or(Some(Ending::Signal(libc::SIGKILL)));
        self.heed_report(report).unwrap_or_else(|| self.over(false))
    }

    fn over(&self, is_to_release: bool) -> Over {
        let is_lost = self.is_lost && self.run.on_lost != OnLost::Ignore;
        let ending = if is_lost { LOST } else { self.ended.unwrap_or(LOST) };
        Over { ending, is_to_release: is_to_release && !self.is_lost, is_lost: self.is_lost }
    }
}

fn expired() -> Over {
    say("the lock was granted, and its lease has all but lapsed since");
    Over { ending: LOST, is_to_release: true, is_lost: true }
}

/// The exit codes of a shell.
fn not_started(run: &Run, error: i32) -> Over {
    let program = run.command.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    say(&format!("{program}: {}", std::io::Error::from_raw_os_error(error)));
    let code = if error == Errno::ENOENT as i32 { 127 } else { 126 };
    Over { ending: Ending::Code(code), is_to_release: true, is_lost: false }
}

/// The complaint about processes that go on after everything was tried.
pub(super) fn unkillable(processes: &[Process], is_lost: bool) -> String {
    let processes: Vec<_> = processes.iter().map(describe).collect();
    let processes = if processes.is_empty() { "all processes".to_owned() } else { processes.join(", ") };
    match is_lost {
        true => format!("cannot end {processes}: it goes on without the lock"),
        false => format!("cannot end {processes}: the lock is not released, and stays held until its lease expires"),
    }
}

fn describe(process: &Process) -> String {
    format!("process {} ({})", process.pid, process.name)
}
