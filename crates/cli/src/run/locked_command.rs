//! Runs the command under the lock, and reacts to signals, heartbeats and reports of the watchdog.

use std::time::Duration;

use lockable_client::{BootTime, LockGuard};
use nix::{
    errno::Errno,
    libc,
    unistd::{getpid, getsid},
};

use super::{
    OnLost, RunArgs,
    descendants::{ExitStatus, ProcessInfo},
    environment::environment,
    orders::{Order, Report, StartOptions},
    terminal::Terminal,
    watchdog_handle::WatchdogHandle,
};
use crate::{
    print_message,
    signals::{self, CaughtSignal, Signals},
};

/// `EX_IOERR` of sysexits.h: the lock was lost, and the command was stopped.
const LOST: ExitStatus = ExitStatus::Code(74);

/// Default time between SIGTERM and SIGKILL; less for short leases.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// How long before the lease expires all processes must have ended; less for short leases. On a busy
/// machine signals take effect late.
const KILL_MARGIN: Duration = Duration::from_millis(250);

/// A running command and its lock.
struct LockedCommand<'a> {
    run: &'a RunArgs,
    lock: &'a LockGuard,
    watch: &'a mut WatchdogHandle,
    signals: &'a mut Signals,
    kill_after: Duration,
    grace: Duration,
    is_lost: bool,
    ended: Option<ExitStatus>,
}

/// How a run ended.
pub(super) struct RunEnd {
    pub ending: ExitStatus,
    /// False after a loss, and while a process runs that cannot be ended.
    pub releases_lock: bool,
    /// Also true if the watchdog detected the loss first.
    pub is_lost: bool,
}

/// Runs the command until all processes have ended.
pub(super) async fn run(run: &RunArgs, lock: &LockGuard, watch: &mut WatchdogHandle, signals: &mut Signals) -> RunEnd {
    let lease = lock.grant().lease;
    let grace = run.kill_after.map_or(KILL_AFTER.min(lease / 4), |kill_after| kill_after.min(lease / 3));
    let kill_after = if run.on_lost == OnLost::Kill { Duration::ZERO } else { grace };
    let terminal = Terminal::save();
    let mut held = LockedCommand { run, lock, watch, signals, kill_after, grace, is_lost: false, ended: None };
    let end = held.start_and_watch().await;
    if let Some(terminal) = terminal.filter(|_| held.is_lost) {
        terminal.restore();
    }
    end
}

impl LockedCommand<'_> {
    async fn start_and_watch(&mut self) -> RunEnd {
        if self.run.on_lost != OnLost::Ignore {
            self.watch.set_deadline(self.deadline());
        }
        // This process may have been stopped during the wait and continued too late.
        if (self.lock.deadline() - self.kill_after).remaining().is_zero() {
            return expired();
        }
        self.watch.order(&Order::Start(StartOptions {
            environment: environment(&self.run.lock.name, self.lock),
            kill_after_ms: self.kill_after.as_millis() as u64,
            grace_ms: self.grace.as_millis() as u64,
        }));
        let mut changes = self.lock.events();
        loop {
            tokio::select! {
                report = self.watch.report() => {
                    let end = match report {
                        Some(report) => self.handle_report(report),
                        None => Some(self.end_without_watchdog().await),
                    };
                    if let Some(end) = end {
                        return end;
                    }
                }
                caught = self.signals.next() => self.handle_signal(caught),
                loss = self.lock.expiring(self.kill_after), if !self.is_lost => {
                    self.lose(&loss.to_string());
                }
                error = changes.next(), if !self.is_lost => {
                    if let Some(reason) = error {
                        print_message(&format!("heartbeats fail, and are retried until the lease expires: {reason}"));
                    }
                    if self.run.on_lost != OnLost::Ignore {
                        self.watch.set_deadline(self.deadline());
                    }
                }
            }
        }
    }

    fn handle_report(&mut self, report: Report) -> Option<RunEnd> {
        match report {
            Report::Forked(_) | Report::DeadlineSet(_) => {}
            Report::NotStarted(error) => return Some(not_started(self.run, error)),
            Report::Expired => return Some(expired()),
            Report::NotSignaled(number, process) => print_message(&format!(
                "cannot send {} to {}, which belongs to another user",
                signals::name(number),
                describe(&process)
            )),
            Report::Ending => {
                if !std::mem::replace(&mut self.is_lost, true) {
                    print_message("the lock may be lost; the watchdog ends the command");
                }
            }
            Report::Overdue => print_message(&format!(
                "the command still runs {:?} after SIGTERM; lockable kills all of its processes",
                self.grace
            )),
            Report::Ended(ending) => {
                self.ended = Some(ending);
                self.signals.discard();
                self.watch.handle_child_signal();
            }
            Report::Gone => return Some(self.run_end(true)),
            Report::Left(processes) => {
                print_message(&unkillable(&processes, self.is_lost));
                return Some(self.run_end(false));
            }
        }
        None
    }

    fn handle_signal(&mut self, caught: CaughtSignal) {
        let CaughtSignal { number, .. } = caught;
        if number == libc::SIGCHLD {
            self.watch.handle_child_signal();
        } else if number == libc::SIGCONT {
            self.watch.order(&Order::Signal(number));
            // The lease may have expired while this process was stopped, and timers are late.
            if !self.is_lost && (self.lock.deadline() - self.kill_after).remaining().is_zero() {
                self.lose("the lock may be lost: lockable was stopped for too long");
            }
        } else if signals::is_stop(number) {
            // The terminal's stop signals reach the command without this.
            self.watch.order(&Order::SignalAll(number));
            signals::stop_by(number);
            self.watch.order(&Order::SignalAll(libc::SIGCONT));
        } else if self.ended.is_some() && caught.is_ending() {
            if caught.is_urgent() {
                self.watch.order(&Order::End(BootTime::now().as_nanos()));
            }
        } else if !self.was_sent_to_command(caught) {
            self.watch.order(&Order::Signal(number));
        }
    }

    /// Whether the terminal sent the signal to the command, too.
    fn was_sent_to_command(&self, caught: CaughtSignal) -> bool {
        // When the terminal hangs up, the kernel sends SIGHUP to the session leader only.
        let is_for_leader = caught.number == libc::SIGHUP && getsid(None) == Ok(getpid());
        caught.is_from_terminal() && !is_for_leader && !self.watch.is_command_in_other_group()
    }

    fn lose(&mut self, reason: &str) {
        self.is_lost = true;
        print_message(reason);
        if self.run.on_lost != OnLost::Ignore {
            self.watch.order(&Order::End(self.kill_at().as_nanos()));
        }
    }

    fn kill_at(&self) -> BootTime {
        (BootTime::now() + self.kill_after).min(self.deadline().max(BootTime::now()))
    }

    /// When all processes must have ended: shortly before the lock can be granted to another holder.
    fn deadline(&self) -> BootTime {
        self.lock.deadline() - KILL_MARGIN.min(self.lock.grant().lease / 40)
    }

    /// Ends the command: without a watchdog it would survive a stop or the death of this process.
    async fn end_without_watchdog(&mut self) -> RunEnd {
        print_message("the watchdog was killed or does not respond; lockable ends the command");
        let (ended, report) = self.watch.end_without(self.kill_at()).await;
        self.ended = self.ended.or(ended).or(Some(ExitStatus::Signal(libc::SIGKILL)));
        self.handle_report(report).unwrap_or_else(|| self.run_end(false))
    }

    fn run_end(&self, releases_lock: bool) -> RunEnd {
        let is_lost = self.is_lost && self.run.on_lost != OnLost::Ignore;
        let ending = if is_lost { LOST } else { self.ended.unwrap_or(LOST) };
        RunEnd { ending, releases_lock: releases_lock && !self.is_lost, is_lost: self.is_lost }
    }
}

fn expired() -> RunEnd {
    print_message("the lease expired before the command could start; the command was not run");
    RunEnd { ending: LOST, releases_lock: true, is_lost: true }
}

/// Uses the exit codes of a shell: 127 if the program does not exist, else 126.
fn not_started(run: &RunArgs, error: i32) -> RunEnd {
    let program = run.command.first().map(|program| program.to_string_lossy()).unwrap_or_default();
    print_message(&format!("{program}: {}", std::io::Error::from_raw_os_error(error)));
    let code = if error == Errno::ENOENT as i32 { 127 } else { 126 };
    RunEnd { ending: ExitStatus::Code(code), releases_lock: true, is_lost: false }
}

/// The message about processes that cannot be ended.
pub(super) fn unkillable(processes: &[ProcessInfo], is_lost: bool) -> String {
    let processes: Vec<_> = processes.iter().map(describe).collect();
    let processes = if processes.is_empty() { "all processes".to_owned() } else { processes.join(", ") };
    match is_lost {
        true => format!("cannot end {processes}: it runs on without the lock; end it by hand"),
        false => format!("cannot end {processes}: the lock is not released, and stays held until its lease expires"),
    }
}

fn describe(process: &ProcessInfo) -> String {
    format!("process {} ({})", process.pid, process.name)
}
