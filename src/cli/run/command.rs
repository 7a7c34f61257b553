use std::{
    ffi::OsString,
    io::{self, ErrorKind, IsTerminal},
    os::unix::process::CommandExt,
    process,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{SigSet, Signal, killpg, raise},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp},
};
use tokio::{
    signal::unix::{self, SignalKind},
    time::sleep,
};

use crate::client::Moment;

/// The first that programs can use; which one it was is not known.
const REALTIME_SIGNAL: u8 = 34;
/// How long what was sent KILL may be seen, as it is when nobody waits for it.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// How often to look whether all processes are gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The command, in a process group of its own, with the terminal if there is one.
pub(super) struct Command {
    leader: Pid,
    changes: unix::Signal,
    has_terminal: bool,
}

/// What has become of the command.
pub(super) enum State {
    /// With the exit code that a shell would give it.
    Ended(u8),
    Stopped,
}

impl Command {
    /// Starts it. When that fails, returns the exit code of a shell, and why.
    pub fn start(words: &[OsString], environment: &[(&str, String)]) -> Result<Self, (u8, String)> {
        let [program, arguments @ ..] = words else { return Err((126, "there is no command".to_owned())) };
        let failed = |error: io::Error| {
            let code = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
            (code, format!("{}: {error}", program.to_string_lossy()))
        };
        let changes = unix::signal(SignalKind::child()).map_err(failed)?;
        // What the command leaves behind is ours to end.
        #[cfg(target_os = "linux")]
        let _ = prctl::set_child_subreaper(true);
        let mut command = process::Command::new(program);
        command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value))).process_group(0);
        let child = command.spawn().map_err(failed)?;
        let leader = Pid::from_raw(child.id() as i32);
        let mut command = Self { leader, changes, has_terminal: false };
        command.give_terminal();
        Ok(command)
    }

    pub fn group(&self) -> Pid {
        self.leader
    }

    /// Is ready when it has ended or was stopped.
    pub async fn changed(&mut self) -> State {
        loop {
            match waitpid(self.leader, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(_, code)) => return State::Ended(code as u8),
                Ok(WaitStatus::Signaled(_, signal, _)) => return State::Ended(128 + signal as u8),
                Ok(WaitStatus::Stopped(..)) => return State::Stopped,
                // nix knows no realtime signals: one of them has ended it.
                Err(Errno::EINVAL) => return State::Ended(128 + REALTIME_SIGNAL),
                Err(Errno::ECHILD) => return State::Ended(126),
                _ => {}
            }
            self.changes.recv().await;
        }
    }

    pub fn signal(&self, signal: Signal) {
        let _ = killpg(self.leader, signal);
    }

    /// Asks it to end. A command that is stopped could not hear it.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGCONT);
    }

    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Stops like the command, which somebody at the terminal has stopped, so that
    /// the shell has the terminal again; goes on with it when the shell says so.
    pub fn stop_with_it(&mut self) {
        if !self.has_terminal {
            // We may have come to the foreground since.
            self.give_terminal();
        }
        if !self.has_terminal {
            let _ = raise(Signal::SIGSTOP);
            self.give_terminal();
            self.signal(Signal::SIGCONT);
            return;
        }
        self.take_terminal();
        let _ = raise(Signal::SIGSTOP);
        self.give_terminal();
        self.signal(Signal::SIGCONT);
    }

    /// Ends what the leader has left behind: nothing goes on without the lock.
    pub async fn end_group(&mut self, kill_after: Duration) {
        self.take_terminal();
        if self.is_gone() {
            return;
        }
        self.terminate();
        let kill_at = Moment::now() + kill_after;
        while !self.is_gone() && kill_at.elapsed() < KILL_PATIENCE {
            if kill_at.rest().is_zero() {
                self.kill();
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    fn is_gone(&self) -> bool {
        while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) =
            waitpid(Pid::from_raw(-self.leader.as_raw()), Some(WaitPidFlag::WNOHANG))
        {}
        killpg(self.leader, None) == Err(Errno::ESRCH)
    }

    /// Gives the terminal to the command, if we have it.
    fn give_terminal(&mut self) {
        let terminal = io::stdin();
        self.has_terminal = terminal.is_terminal() && tcgetpgrp(&terminal) == Ok(getpgrp());
        if self.has_terminal {
            let _ = tcsetpgrp(&terminal, self.leader);
            // It may have asked for the terminal before it had it.
            self.signal(Signal::SIGCONT);
        }
    }

    fn take_terminal(&mut self) {
        if !self.has_terminal {
            return;
        }
        // Who is in the background is stopped for this, unless it blocks the signal.
        let blocked = SigSet::from(Signal::SIGTTOU);
        let _ = blocked.thread_block();
        let _ = tcsetpgrp(io::stdin(), getpgrp());
        let _ = blocked.thread_unblock();
    }
}
