//! `lockable run`'s handle of the watchdog.

use std::{io, os::unix::net::UnixStream, time::Duration};

use lockable_client::BootTime;
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::{Pid, getpgid, getpgrp},
};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::time::sleep;

use super::{
    RunArgs,
    cgroup::Cgroup,
    descendants::{ExitStatus, Remaining, Termination, adopt_orphans, own_children, reap},
    inherited::fork,
    orders::{Inbox, Order, Report, send},
    watchdog,
};
use crate::{print_message, signals};

/// Limit for the confirmation of an order.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for the watchdog's exit after its last report.
const END_TIMEOUT: Duration = Duration::from_millis(100);

/// The forked watchdog before the runtime starts.
pub(super) struct ForkedWatchdog {
    pid: Pid,
    socket: UnixStream,
    excluded: Vec<i32>,
    /// The caller's signal mask.
    pub mask: SigSet,
}

/// Forks the watchdog, which forks the process that becomes the command. Blocks all signals until
/// [`signals::catch`], so that no signal stops or ends the watchdog before it has left the caller's
/// job.
///
/// # Errors
/// When the limit of processes or files is reached.
pub(super) fn start(run: &RunArgs) -> io::Result<ForkedWatchdog> {
    let (socket, theirs) = UnixStream::pair()?;
    let excluded = own_children();
    let mask = signals::block()?;
    // If the watchdog is killed, this process has to end its descendants.
    adopt_orphans();
    let Some(pid) = fork()? else {
        drop(socket);
        watchdog::watch(run, theirs, &mask)
    };
    Ok(ForkedWatchdog { pid, socket, excluded, mask })
}

/// A connection to the watchdog.
pub(super) struct WatchdogHandle {
    pid: Pid,
    orders: UnixStream,
    socket: tokio::net::UnixStream,
    reports: Inbox,
    excluded: Vec<i32>,
    command: Option<i32>,
    unconfirmed: Option<Unconfirmed>,
}

struct Unconfirmed {
    nanos: u64,
    due: BootTime,
    is_second_try: bool,
}

impl WatchdogHandle {
    /// Must be called within a runtime.
    pub fn new(ForkedWatchdog { pid, socket, excluded, .. }: ForkedWatchdog) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let orders = socket.try_clone()?;
        let socket = tokio::net::UnixStream::from_std(socket)?;
        Ok(Self { pid, orders, socket, reports: Inbox::default(), excluded, command: None, unconfirmed: None })
    }

    pub fn order(&self, order: &Order) {
        send(&self.orders, order);
    }

    /// Sends the time until which the lock is held.
    pub fn set_deadline(&mut self, deadline: BootTime) {
        self.send_deadline(deadline.as_nanos(), false);
    }

    fn send_deadline(&mut self, nanos: u64, is_second_try: bool) {
        self.order(&Order::Deadline(nanos));
        if is_second_try || self.unconfirmed.is_none() {
            self.unconfirmed = Some(Unconfirmed { nanos, due: BootTime::now() + CONFIRM_TIMEOUT, is_second_try });
        }
    }

    /// Returns the next report. `None` when the watchdog is dead or does not confirm orders.
    pub async fn report(&mut self) -> Option<Report> {
        loop {
            while let Some(report) = self.reports.next() {
                match report {
                    Report::Forked(command) => self.command = Some(command),
                    Report::DeadlineSet(nanos) => {
                        self.unconfirmed = self.unconfirmed.take().filter(|order| order.nanos > nanos);
                    }
                    report => return Some(report),
                }
            }
            if self.reports.is_closed {
                return None;
            }
            let due = self.unconfirmed.as_ref().map(|order| order.due);
            tokio::select! {
                biased;
                _ = self.socket.readable() => {
                    // WouldBlock makes the runtime wait for more bytes.
                    let _ = self.socket.try_io(tokio::io::Interest::READABLE, || {
                        self.reports.fill(&self.orders);
                        Err::<(), _>(io::ErrorKind::WouldBlock.into())
                    });
                }
                () = reached(due) => {
                    let Some(order) = self.unconfirmed.take() else { continue };
                    // Retry once: this process may have been stopped since it sent the order.
                    if order.is_second_try {
                        return None;
                    }
                    self.send_deadline(order.nanos, true);
                }
            }
        }
    }

    /// Continues a stopped watchdog. Waits for ended orphans, whose parent is the first process of a
    /// container. Must be called at each SIGCHLD.
    pub fn handle_child_signal(&self) {
        reap(|_, _| {});
        let Some(watchdog) = rustix::process::Pid::from_raw(self.pid.as_raw()) else { return };
        let stopped = waitid(WaitId::Pid(watchdog), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG);
        if stopped.is_ok_and(|status| status.is_some_and(|status| status.stopped())) {
            // Before the message: this process may be stopped, too.
            let _ = kill(self.pid, Signal::SIGCONT);
            print_message("the watchdog was stopped; lockable continued it");
        }
    }

    /// Whether the command has left this process group, as `timeout` does. The terminal's signals do
    /// not reach it there.
    pub fn is_command_in_other_group(&self) -> bool {
        let group = self.command.and_then(|command| getpgid(Some(Pid::from_raw(command))).ok());
        group.is_some_and(|group| group != getpgrp())
    }

    /// Waits for the exit of the watchdog.
    pub async fn end(self) {
        // Closing both sockets makes the watchdog exit.
        drop((self.orders, self.socket));
        let deadline = BootTime::now() + END_TIMEOUT;
        while !deadline.remaining().is_zero() {
            let mut is_gone = false;
            let has_children = reap(|pid, _| is_gone |= pid == self.pid.as_raw());
            if is_gone || !has_children {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends all processes when the watchdog is dead or does not respond: its descendants become
    /// children of this process once the watchdog is dead.
    pub async fn end_without(&mut self, kill_at: BootTime) -> (Option<ExitStatus>, Report) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let cgroup = Cgroup::of(self.pid.as_raw());
        let mut termination = Termination::new(self.excluded.clone(), kill_at);
        let mut ended = None;
        loop {
            let has_children = reap(|pid, ending| {
                if Some(pid) == self.command {
                    ended = Some(ending);
                }
            });
            match termination.step(has_children, None, cgroup.as_ref()) {
                Remaining::None => return (ended, Report::Gone),
                Remaining::Some(pause) => sleep(pause).await,
                Remaining::Unkillable(processes) => return (ended, Report::Left(processes)),
            }
        }
    }
}

pub(super) async fn reached(time: Option<BootTime>) {
    match time {
        Some(time) => time.reached().await,
        None => std::future::pending().await,
    }
}
