//! The dimensions of the table, and the valid combinations of their values.

use std::fmt;

/// The shell in the terminal, or the shell that a program starts without a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    Bash,
    Zsh,
    Dash,
}

/// The typed or started line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Alone,
    Script,
    For,
    Until,
    Make,
    /// The left side of a pipeline.
    Into,
    /// The left side of a pipeline into a program that uses the terminal.
    Pager,
    /// The right side of a pipeline.
    From,
    /// Started with `&`, then brought to the foreground.
    Background,
    Redirected,
    /// The command reads from `/dev/tty`, not from its standard input.
    Asking,
    /// A shell without job control leads the session of the terminal, as in CI.
    NoJobControl,
    /// The wrapper leads the session of the terminal.
    Leader,
    /// There is no terminal, as under cron.
    Cron,
    /// The wrapper is process 1 of a PID namespace.
    First,
}

/// The command under the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Plain,
    /// Ignores TERM.
    Stubborn,
    /// `timeout`, which creates a process group.
    Grouped,
    /// A script with a child in a session of its own.
    Forked,
    /// Another run, of another lock.
    Nested,
}

/// The wrapper's state at the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Holding,
    Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The command runs to its end.
    End,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-\.
    Quit,
    /// Ctrl-Z, then `fg`.
    Suspend,
    /// SIGTERM to the wrapper.
    Terminate,
    /// The terminal is closed.
    HangUp,
    StopWrapper,
    StopWatchdog,
    StopCommand,
    /// The lock is broken.
    Break,
    /// The server is unreachable for longer than the lease.
    Away,
    KillWrapper,
    KillWatchdog,
    /// The wrapper and the watchdog.
    KillBoth,
    KillCommand,
}

/// One cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub shell: Shell,
    pub shape: Shape,
    pub program: Program,
    pub phase: Phase,
    pub event: Event,
}

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Dash];
const SHAPES: [Shape; 15] = {
    use Shape::{
        Alone, Asking, Background, Cron, First, For, From, Into, Leader, Make, NoJobControl, Pager, Redirected, Script,
        Until,
    };
    [
        Alone,
        Script,
        For,
        Until,
        Make,
        Into,
        Pager,
        From,
        Background,
        Redirected,
        Asking,
        NoJobControl,
        Leader,
        Cron,
        First,
    ]
};
const PROGRAMS: [Program; 5] = [Program::Plain, Program::Stubborn, Program::Grouped, Program::Forked, Program::Nested];
const PHASES: [Phase; 2] = [Phase::Holding, Phase::Waiting];
const EVENTS: [Event; 15] = {
    use Event::{
        Away, Break, End, HangUp, Interrupt, KillBoth, KillCommand, KillWatchdog, KillWrapper, Quit, StopCommand,
        StopWatchdog, StopWrapper, Suspend, Terminate,
    };
    [
        End,
        Interrupt,
        Quit,
        Suspend,
        Terminate,
        HangUp,
        StopWrapper,
        StopWatchdog,
        StopCommand,
        Break,
        Away,
        KillWrapper,
        KillWatchdog,
        KillBoth,
        KillCommand,
    ]
};

impl Case {
    /// The whole table.
    pub fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for shape in SHAPES {
            for event in EVENTS {
                for phase in PHASES {
                    for program in PROGRAMS {
                        cases.extend(SHELLS.map(|shell| Self { shell, shape, program, phase, event }));
                    }
                }
            }
        }
        cases.retain(|case| case.is_possible());
        cases
    }

    fn is_possible(self) -> bool {
        use Event::{End, HangUp, Interrupt, KillWrapper, Quit, StopWrapper, Suspend, Terminate};
        let needs_terminal = matches!(self.event, Interrupt | Quit | Suspend | HangUp);
        if self.shape == Shape::Cron && needs_terminal {
            return false;
        }
        // The kernel stops a background process group that reads from the terminal, and a process of
        // another session has no `/dev/tty`.
        if self.shape == Shape::Asking && matches!(self.program, Program::Grouped | Program::Forked) {
            return false;
        }
        // The kernel kills the command with its parents. The command's children continue, as documented
        // in docs/run.md.
        if self.event == Event::KillBoth && matches!(self.program, Program::Grouped | Program::Forked) {
            return false;
        }
        match self.phase {
            Phase::Holding => true,
            // There is no command, and no lock to lose.
            Phase::Waiting => {
                let is_of_wrapper = needs_terminal || matches!(self.event, End | Terminate | StopWrapper | KillWrapper);
                is_of_wrapper && self.program == Program::Plain
            }
        }
    }

    /// Whether the shell is interactive.
    pub fn has_prompt(self) -> bool {
        !matches!(self.shape, Shape::NoJobControl | Shape::Leader | Shape::Cron)
    }

    /// Whether the case needs an expired lease or an early heartbeat.
    pub fn has_short_lease(self) -> bool {
        use Event::{
            Away, Break, KillBoth, KillWatchdog, KillWrapper, StopCommand, StopWatchdog, StopWrapper, Suspend,
        };
        match self.phase {
            Phase::Holding => matches!(
                self.event,
                Away | Break | KillBoth | KillWatchdog | KillWrapper | StopCommand | StopWatchdog | StopWrapper
            ),
            // A stopped process may be granted the lock.
            Phase::Waiting => matches!(self.event, Suspend | StopWrapper),
        }
    }

    /// The same for the nested run.
    pub fn has_short_inner_lease(self) -> bool {
        match self.event {
            Event::StopCommand => false,
            Event::KillCommand => true,
            _ => self.has_short_lease(),
        }
    }

    /// Whether the event is a signal that the command ignores, so that `lockable run` kills it.
    pub fn is_ignored(self) -> bool {
        self.event == Event::Terminate && self.program == Program::Stubborn && self.is_held()
    }

    pub fn is_held(self) -> bool {
        self.phase == Phase::Holding
    }

    fn coordinates(self) -> [usize; 5] {
        [self.shell as usize, self.shape as usize, self.program as usize, self.phase as usize, self.event as usize]
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shell, shape, program, phase, event } = self;
        write!(f, "{shell:?} {shape:?} {program:?} {phase:?} {event:?}")
    }
}

/// The index of a pair of values of two dimensions.
type Pair = usize;
/// More values than any dimension has.
const VALUES_MAX: usize = 16;

fn pairs(case: Case) -> Vec<Pair> {
    let coordinates = case.coordinates();
    let number = |axis: usize| axis * VALUES_MAX + coordinates[axis];
    let axes = 0..coordinates.len();
    let both = axes.clone().flat_map(|first| axes.clone().skip(first + 1).map(move |second| (first, second)));
    both.map(|(first, second)| number(first) * VALUES_MAX * coordinates.len() + number(second)).collect()
}

/// Chooses a few cases that cover each pair of values of all cases.
pub fn pairwise(cases: &[Case]) -> Vec<Case> {
    let pairs: Vec<Vec<Pair>> = cases.iter().copied().map(pairs).collect();
    let mut is_missing = vec![false; (VALUES_MAX * 5).pow(2)];
    for pair in pairs.iter().flatten() {
        is_missing[*pair] = true;
    }
    let mut chosen = Vec::new();
    // Similar cases are adjacent, so each search begins at another index.
    let mut start = 0;
    loop {
        let gain = |at: &usize| pairs[*at].iter().filter(|pair| is_missing[**pair]).count();
        let best = (start..cases.len()).chain(0..start).max_by_key(gain).filter(|at| gain(at) > 0);
        let Some(best) = best else { return chosen };
        for pair in &pairs[best] {
            is_missing[*pair] = false;
        }
        chosen.push(cases[best]);
        start = (best + 997) % cases.len();
    }
}

#[test]
fn pairwise_cases_cover_each_pair_of_values() {
    let all = Case::all();
    let chosen = pairwise(&all);
    let set = |cases: &[Case]| cases.iter().copied().flat_map(pairs).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(set(&chosen), set(&all));
    assert!(chosen.len() * 5 < all.len(), "{} of {}", chosen.len(), all.len());
}
