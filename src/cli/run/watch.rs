//! The watchdog as `lockable run` sees it.

use std::{io, os::unix::net::UnixStream, time::Duration};

use nix::{
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::{Pid, getpgid, getpgrp},
};
use tokio::time::sleep;

use super::{
    Run,
    cgroup::Cgroup,
    descendants::{Ending, Left, Sweep, adopt_orphans, own_children, reap},
    inherited::fork,
    orders::{Inbox, Order, Report, send},
    signals, watchdog,
};
use crate::{cli::say, client::BootTime};

/// How long the watchdog may take to confirm an order.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to end after it has reported so.
const END_PATIENCE: Duration = Duration::from_millis(100);

/// The forked watchdog, before there is a runtime.
pub(super) struct Forked {
    pid: Pid,
    socket: UnixStream,
    spared: Vec<i32>,
    /// The caller's signal mask.
    pub mask: SigSet,
}

/// Forks the watchdog, which forks the process that becomes the command. All signals are blocked
/// from here until [`signals::catch`]: nothing can stop or end the watchdog before it has left the
/// caller's job.
///
/// # Errors
/// When there are too many processes or files.
pub(super) fn start(run: &Run) -> io::Result<Forked> {
    let (socket, theirs) = UnixStream::pair()?;
    let spared = own_children();
    let mask = signals::block()?;
    // If the watchdog is killed, what it watches is this process's to end.
    adopt_orphans();
    let Some(pid) = fork()? else {
        drop(socket);
        watchdog::watch(run, theirs, &mask)
    };
    Ok(Forked { pid, socket, spared, mask })
}

/// A watchdog that can be sent orders.
pub(super) struct Watch {
    pid: Pid,
    orders: UnixStream,
    socket: tokio::net::UnixStream,
    reports: Inbox,
    spared: Vec<i32>,
    command: Option<i32>,
    unconfirmed: Option<Unconfirmed>,
}

struct Unconfirmed {
    nanos: u64,
    due: BootTime,
    is_second_try: bool,
}

impl Watch {
    /// To be called within a runtime.
    pub fn new(Forked { pid, socket, spared, .. }: Forked) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let orders = socket.try_clone()?;
        let socket = tokio::net::UnixStream::from_std(socket)?;
        Ok(Self { pid, orders, socket, reports: Inbox::default(), spared, command: None, unconfirmed: None })
    }

    pub fn order(&self, order: &Order) {
        send(&self.orders, order);
    }

    /// Tells until when the lock can be relied on.
    pub fn until(&mut self, deadline: BootTime) {
        self.tell_until(deadline.as_nanos(), false);
    }

    fn tell_until(&mut self, nanos: u64, is_second_try: bool) {
        self.order(&Order::Until(nanos));
        if is_second_try || self.unconfirmed.is_none() {
            self.unconfirmed = Some(Unconfirmed { nanos, due: BootTime::now() + CONFIRM_PATIENCE, is_second_try });
        }
    }

    /// The next report. `None` when the watchdog is dead, or does not confirm orders: it watches
    /// nothing any more.
    pub async fn report(&mut self) -> Option<Report> {
        loop {
            while let Some(report) = self.reports.next() {
                match report {
                    Report::Forked(command) => self.command = Some(command),
                    Report::Until(nanos) => {
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
                    // An attempt that would block tells the runtime to wait for more.
                    let _ = self.socket.try_io(tokio::io::Interest::READABLE, || {
                        self.reports.fill(&self.orders);
                        Err::<(), _>(io::ErrorKind::WouldBlock.into())
                    });
                }
                () = reached(due) => {
                    let Some(order) = self.unconfirmed.take() else { continue };
                    // This process may have been stopped itself since it gave the order.
                    if order.is_second_try {
                        return None;
                    }
                    self.tell_until(order.nanos, true);
                }
            }
        }
    }

    /// Continues the watchdog if somebody has stopped it. Waits for orphans, which the first process
    /// of a container is given. To be called at each SIGCHLD.
    pub fn look_after(&self) {
        reap(|_, _| {});
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
        if let Ok(WaitStatus::Stopped(..)) = waitid(Id::Pid(self.pid), flags) {
            // First of all: this process may be stopped, too.
            let _ = kill(self.pid, Signal::SIGCONT);
            say("the watchdog was stopped, and is continued");
        }
    }

    /// Whether the command has left this process's group, as `timeout` does. Signals of the terminal
    /// do not reach it there.
    pub fn is_command_elsewhere(&self) -> bool {
        let group = self.command.and_then(|command| getpgid(Some(Pid::from_raw(command))).ok());
        group.is_some_and(|group| group != getpgrp())
    }

    /// Waits for the end of the watchdog, which has nothing to watch any more.
    pub async fn end(self) {
        // With them it learns that this is the end.
        drop((self.orders, self.socket));
        let give_up = BootTime::now() + END_PATIENCE;
        while !give_up.rest().is_zero() {
            let mut is_gone = false;
            let has_children = reap(|pid, _| is_gone |= pid == self.pid.as_raw());
            if is_gone || !has_children {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends everything in the place of a watchdog that cannot: what it has started are children
    /// of this process as soon as the watchdog is dead.
    pub async fn end_without(&mut self, kill_at: BootTime) -> (Option<Ending>, Report) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let cgroup = Cgroup::of(self.pid.as_raw());
        let mut sweep = Sweep::new(self.spared.clone(), kill_at);
        let mut ended = None;
        loop {
            let has_children = reap(|pid, ending| {
                if Some(pid) == self.command {
                    ended = Some(ending);
                }
            });
            match sweep.step(has_children, None, cgroup.as_ref()) {
                Left::Nothing => return (ended, Report::Gone),
                Left::Some(pause) => sleep(pause).await,
                Left::Unkillable(processes) => return (ended, Report::Left(processes)),
            }
        }
    }
}

pub(super) async fn reached(moment: Option<BootTime>) {
    match moment {
        Some(moment) => moment.reached().await,
        None => std::future::pending().await,
    }
}
