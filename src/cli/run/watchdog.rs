//! The watchdog: the process between `lockable run` and the command.
//!
//! It starts the command, waits for it and for all orphans that it leaves, and ends all of them
//! when `lockable run` says so, dies, or does nothing although the lock is about to be lost. It has
//! a session of its own, so that nothing that is meant for the terminal's processes reaches it.

use std::{
    fs::File,
    io::Read,
    os::{fd::AsFd, unix::net::UnixStream},
    process,
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::SigSet,
    unistd::{dup2_stdin, dup2_stdout, setsid},
};
use rustix::process::Signal;

use super::{
    OnLost, Run,
    cgroup::Cgroup,
    command::{Command, Forked},
    descendants::{Left, Process, Sweep, adopt_orphans, descendants, reap, signal_all},
    held::unkillable,
    inherited::{exit, set_title},
    orders::{Inbox, Order, Report, Start, send},
    signals::{self, Caught},
};
use crate::{cli::say, client::BootTime};

/// How long `lockable run` has to end the command by itself.
const HEAD_START: Duration = Duration::from_millis(500);
/// How long to sleep at most: timers stand still while the machine sleeps.
const TICK: Duration = Duration::from_millis(100);
const TICK_MIN: Duration = Duration::from_millis(1);
/// Two signals of one kind within this time are one: `killall` sends each process its own.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

struct Watchdog {
    socket: UnixStream,
    orders: Inbox,
    signals: UnixStream,
    command: Command,
    cgroup: Option<Cgroup>,
    stage: Stage,
    has_ended: bool,
    /// `--on-lost ignore`
    is_toothless: bool,
    leaves_background: bool,
    deadline: Option<BootTime>,
    kill_after: Duration,
    grace: Duration,
    /// The last signal that the command was sent, when, and whether it came to this process.
    passed_on: Option<(i32, BootTime, bool)>,
}

enum Stage {
    Waiting,
    Running,
    Ending(Sweep),
    Over,
}

/// Watches until nothing is left to watch. In a process that was just forked, with all signals
/// blocked; `mask` is the caller's.
pub(super) fn watch(run: &Run, socket: UnixStream, mask: &SigSet) -> ! {
    adopt_orphans();
    let is_toothless = run.on_lost == OnLost::Ignore;
    // Nobody would remove the one of a process that stays.
    let cgroup = if run.leave_background { None } else { Cgroup::make(process::id() as i32) };
    let command = match Command::fork(mask, cgroup.as_ref(), !is_toothless) {
        Ok(Forked::Parent(command)) => command,
        Ok(Forked::Child(embryo)) => {
            drop(socket);
            embryo.become_command(&run.command)
        }
        Err(error) => {
            send(&socket, &Report::NotStarted(error.raw_os_error().unwrap_or_default()));
            exit(1)
        }
    };
    let _ = setsid();
    send(&socket, &Report::Forked(command.pid));
    let (Ok(signals), Ok(())) = (signals::catch(mask), socket.set_nonblocking(true)) else { exit(1) };
    hide();
    let watchdog = Watchdog {
        socket,
        orders: Inbox::default(),
        signals,
        command,
        cgroup,
        stage: Stage::Waiting,
        has_ended: false,
        is_toothless,
        leaves_background: run.leave_background,
        deadline: None,
        kill_after: Duration::ZERO,
        grace: Duration::ZERO,
        passed_on: None,
    };
    watchdog.watch();
    exit(0)
}

/// Lets go of what the command alone is to have, and differs from `lockable run` for `killall`
/// and `pkill -f`.
fn hide() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
    }
    let _ = std::env::set_current_dir("/");
    set_title("lockable watchdog");
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_name(c"lockable-watch");
}

impl Watchdog {
    fn watch(mut self) {
        while !matches!(self.stage, Stage::Over) {
            self.heed_signals();
            self.orders.fill(&self.socket);
            while let Some(order) = self.orders.next() {
                self.obey(order);
            }
            self.look_at_run();
            self.look_at_deadline();
            let has_children = self.look_at_command();
            let pause = self.sweep(has_children);
            if !matches!(self.stage, Stage::Over) {
                self.wait(pause);
            }
        }
    }

    fn report(&self, report: &Report) {
        send(&self.socket, report);
    }

    fn heed_signals(&mut self) {
        let mut bytes = [0; 2];
        while let Ok(2) = (&self.signals).read(&mut bytes) {
            let caught = Caught::from_bytes(bytes);
            if caught.is_ending() {
                self.pass_on(caught.number, true);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Until(nanos) => {
                self.deadline = Some(BootTime::from_nanos(nanos));
                self.report(&Report::Until(nanos));
            }
            Order::Start(start) => self.start(&start),
            Order::Signal(number) => self.pass_on(number, false),
            Order::SignalAll(number) => {
                if let Some(signal) = Signal::from_named_raw(number) {
                    signal_all(descendants(&[]), signal);
                }
            }
            Order::End(kill_at) => self.end(BootTime::from_nanos(kill_at)),
        }
    }

    fn start(&mut self, start: &Start) {
        if !matches!(self.stage, Stage::Waiting) {
            return;
        }
        self.kill_after = Duration::from_millis(start.kill_after_ms);
        self.grace = Duration::from_millis(start.grace_ms);
        self.stage = Stage::Running;
        // It may have been stopped since `lockable run` looked.
        if self.deadline.is_some_and(|deadline| (deadline - self.kill_after).rest().is_zero()) {
            self.report(&Report::Expired);
            self.end(BootTime::now());
        } else {
            self.command.start(&start.environment);
        }
    }

    /// Sends the command a signal that came to this process or to `lockable run` alone.
    fn pass_on(&mut self, number: i32, is_own: bool) {
        let is_second = |(last, at, was_own): (i32, BootTime, bool)| {
            last == number && was_own != is_own && at.elapsed() < ONE_SIGNAL
        };
        if self.has_ended || self.passed_on.is_some_and(is_second) {
            return;
        }
        self.passed_on = Some((number, BootTime::now(), is_own));
        if signals::send(self.command.pid, number) == Err(nix::errno::Errno::EPERM) {
            let command = descendants(&[]).into_iter().find(|process| process.pid == self.command.pid);
            if let Some(command) = command {
                self.report(&Report::NotSignaled(number, command));
            }
        }
    }

    /// Notices the death of `lockable run`.
    fn look_at_run(&mut self) {
        if !self.orders.is_closed {
            return;
        }
        match self.stage {
            Stage::Waiting => self.end(BootTime::now()),
            Stage::Running if self.is_toothless => self.stage = Stage::Over,
            Stage::Running => {
                let kill_at = BootTime::now() + self.kill_after;
                self.end(self.deadline.map_or(kill_at, |deadline| deadline.min(kill_at)));
            }
            Stage::Ending(_) | Stage::Over => {}
        }
    }

    /// Waits for the command and for orphans. Returns whether there are children still.
    fn look_at_command(&mut self) -> bool {
        let mut ended = None;
        let has_children = reap(|pid, ending| {
            if pid == self.command.pid {
                ended = Some(ending);
            }
        });
        // The forked process reports the failure before it ends.
        if let Some(error) = self.command.failure() {
            self.report(&Report::NotStarted(error as i32));
            self.stage = Stage::Over;
            return has_children;
        }
        let Some(ending) = ended else { return has_children };
        self.has_ended = true;
        self.report(&Report::Ended(ending));
        match self.stage {
            Stage::Running if self.leaves_background => {
                self.report(&Report::Gone);
                self.stage = Stage::Over;
            }
            Stage::Running => self.end(BootTime::now() + self.grace),
            Stage::Waiting => self.end(BootTime::now()),
            Stage::Ending(_) | Stage::Over => {}
        }
        has_children
    }

    fn look_at_deadline(&mut self) {
        let Some(deadline) = self.deadline.filter(|_| !self.is_toothless) else { return };
        let is_due = self.last_moment(deadline).rest().is_zero();
        match &mut self.stage {
            Stage::Running if is_due => {
                self.report(&Report::Ending);
                self.end(deadline.min(BootTime::now() + self.kill_after));
            }
            Stage::Ending(sweep) if deadline.rest().is_zero() => sweep.hurry(deadline),
            _ => {}
        }
    }

    /// When the command is ended unless `lockable run` has begun to.
    fn last_moment(&self, deadline: BootTime) -> BootTime {
        deadline - self.kill_after + HEAD_START.min(self.kill_after / 2)
    }

    fn end(&mut self, kill_at: BootTime) {
        match &mut self.stage {
            Stage::Ending(sweep) => sweep.hurry(kill_at),
            Stage::Over => {}
            stage => *stage = Stage::Ending(Sweep::new(Vec::new(), kill_at)),
        }
    }

    /// Takes a step towards the end of all processes. Returns the pause before the next.
    fn sweep(&mut self, has_children: bool) -> Option<Duration> {
        let Stage::Ending(sweep) = &mut self.stage else { return None };
        let command = (!self.has_ended).then_some(self.command.pid);
        match sweep.step(has_children, command, self.cgroup.as_ref()) {
            Left::Some(pause) => return Some(pause),
            Left::Nothing => self.report(&Report::Gone),
            Left::Unkillable(processes) => self.report_left(processes),
        }
        self.stage = Stage::Over;
        None
    }

    /// Reports processes that go on, on standard error if `lockable run` is dead.
    fn report_left(&self, processes: Vec<Process>) {
        if self.orders.is_closed {
            say(&unkillable(&processes, true));
        }
        self.report(&Report::Left(processes));
    }

    /// Sleeps until something happens, or for the pause.
    fn wait(&self, pause: Option<Duration>) {
        let ready = PollFlags::POLLIN;
        let mut files = vec![PollFd::new(self.signals.as_fd(), ready)];
        if !self.orders.is_closed {
            files.push(PollFd::new(self.socket.as_fd(), ready));
        }
        files.extend(self.command.channel().map(|channel| PollFd::new(channel.as_fd(), ready)));
        let tick = |deadline| self.last_moment(deadline).rest().clamp(TICK_MIN, TICK);
        let pause = pause.or(self.deadline.map(tick));
        let timeout = pause.map_or(PollTimeout::NONE, |pause| PollTimeout::from(pause.as_millis() as u16));
        let _ = poll(&mut files, timeout);
    }
}
