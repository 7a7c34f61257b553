//! The watchdog: the process between `lockable run` and the command.
//!
//! It starts the command, waits for the command and its orphans, and ends all of them when `lockable
//! run` orders it, dies, or does not act although the lease is about to expire. It runs in a session
//! of its own, so that the terminal's signals do not reach it.

use std::{
    fs::File,
    io::Read,
    os::{fd::AsFd, unix::net::UnixStream},
    process,
    time::Duration,
};

use lockable_client::BootTime;
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::SigSet,
    unistd::{dup2_stdin, dup2_stdout, setsid},
};
use rustix::process::Signal;

use super::{
    OnLost, RunArgs,
    cgroup::Cgroup,
    command::{CommandProcess, Fork},
    descendants::{ProcessInfo, Remaining, Termination, adopt_orphans, descendants, reap, signal_all},
    inherited::{exit, set_title},
    locked_command::unkillable,
    orders::{Inbox, Order, Report, StartOptions, send},
};
use crate::{
    print_message,
    signals::{self, CaughtSignal},
};

/// How long the watchdog gives `lockable run` to end the command itself.
const RUN_GRACE: Duration = Duration::from_millis(500);
/// Maximum length of a sleep: timers do not advance while the machine is suspended.
const TICK: Duration = Duration::from_millis(100);
const TICK_MIN: Duration = Duration::from_millis(1);
/// Two signals of one kind within this time count as one: `killall` signals both processes.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

struct Watchdog {
    socket: UnixStream,
    orders: Inbox,
    signals: UnixStream,
    command: CommandProcess,
    cgroup: Option<Cgroup>,
    stage: Stage,
    has_ended: bool,
    /// `--on-lost ignore` is set.
    ignores_loss: bool,
    leaves_background: bool,
    deadline: Option<BootTime>,
    kill_after: Duration,
    grace: Duration,
    /// When all processes get SIGKILL because `lockable run` got SIGTERM.
    kill_at: Option<BootTime>,
    /// The last forwarded signal, its time, and whether this process received it.
    forwarded: Option<(i32, BootTime, bool)>,
}

enum Stage {
    Waiting,
    Running,
    Ending(Termination),
    Done,
}

/// Runs the watchdog in a newly forked process, with all signals blocked; `mask` is the caller's.
pub(super) fn watch(run: &RunArgs, socket: UnixStream, mask: &SigSet) -> ! {
    adopt_orphans();
    let ignores_loss = run.on_lost == OnLost::Ignore;
    // The watchdog exits before the remaining processes, and could not remove their cgroup.
    let cgroup = if run.leave_background { None } else { Cgroup::create(process::id() as i32) };
    let command = match CommandProcess::fork(mask, cgroup.as_ref(), !ignores_loss) {
        Ok(Fork::Parent(command)) => command,
        Ok(Fork::Child(pre_exec)) => {
            drop(socket);
            pre_exec.become_command(&run.command)
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
        ignores_loss,
        leaves_background: run.leave_background,
        deadline: None,
        kill_after: Duration::ZERO,
        grace: Duration::ZERO,
        kill_at: None,
        forwarded: None,
    };
    watchdog.watch();
    exit(0)
}

/// Closes the standard streams and leaves the working directory, because only the command needs
/// them. Changes the process name, so that a `killall` or `pkill -f` for `lockable run` does not
/// match the watchdog.
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
        while !matches!(self.stage, Stage::Done) {
            self.handle_signals();
            self.orders.fill(&self.socket);
            while let Some(order) = self.orders.next() {
                self.handle_order(order);
            }
            self.check_run();
            self.check_deadline();
            let has_children = self.check_command();
            self.check_grace();
            let pause = self.step_termination(has_children);
            if !matches!(self.stage, Stage::Done) {
                self.wait(pause);
            }
        }
    }

    fn report(&self, report: &Report) {
        send(&self.socket, report);
    }

    fn handle_signals(&mut self) {
        let mut bytes = [0; 2];
        while let Ok(2) = (&self.signals).read(&mut bytes) {
            let caught = CaughtSignal::from_bytes(bytes);
            if caught.is_ending() {
                self.forward(caught.number, true);
            }
        }
    }

    fn handle_order(&mut self, order: Order) {
        match order {
            Order::Deadline(nanos) => {
                self.deadline = Some(BootTime::from_nanos(nanos));
                self.report(&Report::DeadlineSet(nanos));
            }
            Order::Start(start) => self.start(&start),
            Order::Signal(number) => self.forward(number, false),
            Order::SignalAll(number) => {
                if let Some(signal) = Signal::from_named_raw(number) {
                    signal_all(descendants(&[]), signal);
                }
            }
            Order::End(kill_at) => self.end(BootTime::from_nanos(kill_at)),
        }
    }

    fn start(&mut self, start: &StartOptions) {
        if !matches!(self.stage, Stage::Waiting) {
            return;
        }
        self.kill_after = Duration::from_millis(start.kill_after_ms);
        self.grace = Duration::from_millis(start.grace_ms);
        self.stage = Stage::Running;
        // This process may have been stopped since `lockable run` checked the deadline.
        if self.deadline.is_some_and(|deadline| (deadline - self.kill_after).remaining().is_zero()) {
            self.report(&Report::Expired);
            self.end(BootTime::now());
        } else {
            self.command.start(&start.environment);
        }
    }

    /// Forwards a signal that this process or `lockable run` received to the command.
    fn forward(&mut self, number: i32, is_own: bool) {
        let is_duplicate = |(last, at, was_own): (i32, BootTime, bool)| {
            last == number && was_own != is_own && at.elapsed() < ONE_SIGNAL
        };
        if self.has_ended || self.forwarded.is_some_and(is_duplicate) {
            return;
        }
        self.forwarded = Some((number, BootTime::now(), is_own));
        if signals::send(self.command.pid, number) == Err(Errno::EPERM) {
            // It continues, and must not lose the lock. So SIGTERM has no effect on this run.
            let command = descendants(&[]).into_iter().find(|process| process.pid == self.command.pid);
            if let Some(command) = command {
                self.report(&Report::NotSignaled(number, command));
            }
        } else if number == libc::SIGTERM && matches!(self.stage, Stage::Running) {
            self.kill_at.get_or_insert(BootTime::now() + self.grace);
        }
    }

    /// Ends the command if `lockable run` is dead.
    fn check_run(&mut self) {
        if !self.orders.is_closed {
            return;
        }
        match self.stage {
            Stage::Waiting => self.end(BootTime::now()),
            Stage::Running if self.ignores_loss && self.kill_at.is_none() => self.stage = Stage::Done,
            Stage::Running => {
                let kill_at = BootTime::now() + self.kill_after;
                self.end(self.deadline.map_or(kill_at, |deadline| deadline.min(kill_at)));
            }
            Stage::Ending(_) | Stage::Done => {}
        }
    }

    /// Waits for the command and for orphans that have ended. Returns whether children remain.
    fn check_command(&mut self) -> bool {
        let mut ended = None;
        let has_children = reap(|pid, ending| {
            if pid == self.command.pid {
                ended = Some(ending);
            }
        });
        // The forked process reports a failed exec before it exits.
        if let Some(error) = self.command.failure() {
            self.report(&Report::NotStarted(error as i32));
            self.stage = Stage::Done;
            return has_children;
        }
        let Some(ending) = ended else { return has_children };
        self.has_ended = true;
        self.report(&Report::Ended(ending));
        match self.stage {
            Stage::Running if self.leaves_background => {
                self.report(&Report::Gone);
                self.stage = Stage::Done;
            }
            Stage::Running => self.end(BootTime::now() + self.grace),
            Stage::Waiting => self.end(BootTime::now()),
            Stage::Ending(_) | Stage::Done => {}
        }
        has_children
    }

    fn check_deadline(&mut self) {
        let Some(deadline) = self.deadline.filter(|_| !self.ignores_loss) else { return };
        let is_due = self.end_time(deadline).remaining().is_zero();
        match &mut self.stage {
            Stage::Running if is_due => {
                self.report(&Report::Ending);
                self.end(deadline.min(BootTime::now() + self.kill_after));
            }
            Stage::Ending(termination) if deadline.remaining().is_zero() => termination.bring_forward(deadline),
            _ => {}
        }
    }

    /// Kills all processes if the command still runs `--kill-after` after SIGTERM.
    fn check_grace(&mut self) {
        if matches!(self.stage, Stage::Running) && self.kill_at.is_some_and(|at| at.remaining().is_zero()) {
            self.report(&Report::Overdue);
            self.end(BootTime::now());
        }
    }

    /// When the watchdog ends the command, unless `lockable run` has ordered it before.
    fn end_time(&self, deadline: BootTime) -> BootTime {
        deadline - self.kill_after + RUN_GRACE.min(self.kill_after / 2)
    }

    /// Ends all processes. After a SIGTERM to `lockable run`, `--kill-after` counts from that signal.
    fn end(&mut self, kill_at: BootTime) {
        let kill_at = self.kill_at.map_or(kill_at, |at| at.min(kill_at));
        match &mut self.stage {
            Stage::Ending(termination) => termination.bring_forward(kill_at),
            Stage::Done => {}
            stage => *stage = Stage::Ending(Termination::new(Vec::new(), kill_at)),
        }
    }

    /// Takes a step of the termination. Returns the pause before the next step.
    fn step_termination(&mut self, has_children: bool) -> Option<Duration> {
        let Stage::Ending(termination) = &mut self.stage else { return None };
        let command = (!self.has_ended).then_some(self.command.pid);
        match termination.step(has_children, command, self.cgroup.as_ref()) {
            Remaining::Some(pause) => return Some(pause),
            Remaining::None => self.report(&Report::Gone),
            Remaining::Unkillable(processes) => self.report_left(processes),
        }
        self.stage = Stage::Done;
        None
    }

    /// Reports processes that cannot be ended; also on standard error if `lockable run` is dead.
    fn report_left(&self, processes: Vec<ProcessInfo>) {
        if self.orders.is_closed {
            print_message(&unkillable(&processes, true));
        }
        self.report(&Report::Left(processes));
    }

    /// Sleeps until an event, or for the pause.
    fn wait(&self, pause: Option<Duration>) {
        let ready = PollFlags::POLLIN;
        let mut files = vec![PollFd::new(self.signals.as_fd(), ready)];
        if !self.orders.is_closed {
            files.push(PollFd::new(self.socket.as_fd(), ready));
        }
        files.extend(self.command.channel().map(|channel| PollFd::new(channel.as_fd(), ready)));
        let end_time = self.deadline.map(|deadline| self.end_time(deadline));
        let next = end_time.into_iter().chain(self.kill_at).min();
        let pause = pause.or(next.map(|at| at.remaining().clamp(TICK_MIN, TICK)));
        let timeout = pause.map_or(PollTimeout::NONE, |pause| PollTimeout::from(pause.as_millis() as u16));
        let _ = poll(&mut files, timeout);
    }
}
