//! The steps of a case, and its outcome.

use std::fmt;

use nix::sys::signal::Signal;

use super::case::{Case, Event};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Wrapper,
    Watchdog,
    Command,
}

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Type(&'static str),
    Send(Target, Signal),
    HangUp,
    Break,
    Cut,
    Heal,
    /// Waits until the lock is granted to the next holder.
    Lose,
    /// Waits for longer than the lease.
    Outlast,
    /// Releases the other holder's lock.
    Free,
    /// Makes the oracle's command exit with the code that is expected of the wrapper.
    Fail(u8),
    /// Waits until all processes that ran under the lock have ended.
    Ended,
    /// Makes the command exit.
    Finish,
    /// Waits for the prompt and its `$?`, or for the end of a session without a prompt.
    Settle,
    /// Continues stopped processes: with `fg` if there is a prompt.
    Resume,
    /// Waits until the command writes.
    Write,
}

/// The exit code after a loss.
const LOST: u8 = 74;
/// The exit code of a command that was killed.
const KILLED: u8 = 137;

/// The steps of a case, for both wrappers.
pub fn steps(case: Case) -> Vec<Step> {
    use Signal::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};
    use Step::{Break, Cut, Ended, Fail, Finish, Free, HangUp, Heal, Lose, Outlast, Resume, Send, Settle, Type, Write};
    use Target::{Command, Watchdog, Wrapper};
    let mut steps = match case.event {
        Event::End => vec![],
        Event::Interrupt => vec![Type("\x03"), Ended, Settle],
        Event::Quit => vec![Type("\x1c"), Ended, Settle],
        Event::Suspend => vec![Type("\x1a"), Settle, Resume],
        Event::Terminate if case.is_ignored() => vec![Send(Wrapper, SIGTERM), Fail(KILLED), Ended, Settle],
        Event::Terminate => vec![Send(Wrapper, SIGTERM), Ended, Settle],
        Event::HangUp => vec![HangUp, Ended],
        Event::StopWrapper if case.is_held() => {
            vec![Send(Wrapper, SIGSTOP), Settle, Lose, Ended, Resume, Fail(LOST), Settle]
        }
        Event::StopWrapper => vec![Send(Wrapper, SIGSTOP), Settle, Resume],
        Event::StopWatchdog => vec![Send(Watchdog, SIGSTOP), Outlast, Write],
        Event::StopCommand => vec![Send(Command, SIGSTOP), Outlast, Settle, Send(Command, SIGCONT), Write],
        Event::Break => vec![Break, Fail(LOST), Ended, Settle],
        Event::Away => vec![Cut, Fail(LOST), Ended, Settle, Lose, Heal],
        Event::KillWrapper => vec![Send(Wrapper, SIGKILL), Ended, Settle],
        Event::KillWatchdog => vec![Send(Watchdog, SIGKILL), Fail(KILLED), Ended, Settle],
        Event::KillBoth => vec![Send(Wrapper, SIGKILL), Send(Watchdog, SIGKILL), Ended, Settle],
        Event::KillCommand => vec![Send(Command, SIGKILL), Ended, Settle],
    };
    let needs_write = case.event == Event::Suspend && case.is_held();
    steps.extend(needs_write.then_some(Write));
    steps.extend((!case.is_held()).then_some(Free));
    if case.event != Event::HangUp {
        steps.extend([Finish, Settle]);
    }
    steps
}

/// The observed outcome of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code that the shell reports after each [`Step::Settle`], if any.
    pub settled: Vec<Option<String>>,
    /// Whether the command wrote when it was continued.
    pub writes: Vec<bool>,
    /// The output of the rest of a script, a loop or a make recipe.
    pub next: Vec<String>,
    /// The command's input from `/dev/tty`.
    pub input: Option<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settled: Vec<_> = self.settled.iter().map(|status| status.as_deref().unwrap_or("no prompt")).collect();
        write!(f, "settled {settled:?}, writes {:?}, next {:?}, input {:?}", self.writes, self.next, self.input)
    }
}
