//! The intended differences between `lockable run` and `flock`.

use super::{
    case::{Case, Event, Program, Shape},
    steps::Outcome,
};

pub struct Difference {
    pub reason: &'static str,
    applies: fn(Case) -> bool,
    /// Changes the outcome of `flock` into the expected outcome of `lockable run`.
    change: fn(&mut Outcome),
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        reason: "`lockable run` ends all processes of the command, so that the other side of a pipeline \
                 reads end-of-file. Processes that remain after `flock` keep the pipe open",
        applies: |case| {
            let is_left =
                matches!(case.event, Event::Terminate | Event::KillWrapper | Event::KillBoth | Event::KillCommand);
            is_left && !case.is_ignored() && matches!(case.shape, Shape::Into | Shape::Pager)
        },
        change: |outcome| {
            let last = outcome.settled.last().cloned();
            outcome.settled.fill(last.unwrap_or_default());
        },
    },
    Difference {
        reason: "`lockable run` dies of the signal that ended its command, as `env` and `nice` do, which \
                 execute the command. `flock` exits with 128+N",
        applies: |case| {
            let is_killed = matches!(case.event, Event::KillCommand | Event::KillWatchdog) || case.is_ignored();
            case.shape == Shape::Leader && is_killed
        },
        change: |outcome| outcome.settled.fill(Some("signal: 9 (SIGKILL)".to_owned())),
    },
    Difference {
        reason: "as process 1, `lockable run` forwards TERM. `flock` has no handler, and the kernel spares process 1",
        applies: |case| case.shape == Shape::First && case.event == Event::Terminate && !case.is_ignored(),
        change: |outcome| outcome.settled.fill(Some("143".to_owned())),
    },
    Difference {
        reason: "the same for Ctrl-C during the wait, or while the command is in another process group",
        applies: |case| {
            let is_without_command = !case.is_held() || case.program == Program::Grouped;
            case.shape == Shape::First && case.event == Event::Interrupt && is_without_command
        },
        change: |outcome| outcome.settled.fill(Some("130".to_owned())),
    },
];

impl Difference {
    pub fn of(case: Case) -> Vec<&'static Self> {
        DIFFERENCES.iter().filter(|difference| (difference.applies)(case)).collect()
    }

    /// The expected outcome of `lockable run` for an outcome of `flock`.
    pub fn applied(differences: &[&Self], flock: &Outcome) -> Outcome {
        let mut outcome = flock.clone();
        for difference in differences {
            (difference.change)(&mut outcome);
        }
        outcome
    }
}

/// Normalizes statuses that depend on which of two processes is first.
pub fn normalized(case: Case, mut outcome: Outcome) -> Outcome {
    let alike: &[(&str, &str)] = match (case.event, case.shape) {
        // The command is killed by the kernel, or ended by the wrapper.
        (Event::KillWatchdog, _) => &[("143", "137"), ("signal: 15 (SIGTERM)", "signal: 9 (SIGKILL)")],
        // The signal ends make, or make reports that it has ended the recipe.
        (Event::Interrupt, Shape::Make) => &[("130", "2")],
        (Event::Quit, Shape::Make) => &[("131", "2"), ("1", "2")],
        // A shell may reap the reader before the wrapper, and then reports the wrapper as stopped.
        (Event::StopWrapper, Shape::Into | Shape::Pager) => &[("147", "0")],
        // In bash a pipeline with one ended and one stopped process has either status.
        (Event::Suspend, Shape::From | Shape::Asking) => &[("128", "148")],
        (Event::StopWrapper, Shape::From | Shape::Asking) => &[("128", "147")],
        _ => &[],
    };
    for status in outcome.settled.iter_mut().flatten().chain(&mut outcome.next) {
        if let Some((_, to)) = alike.iter().find(|(from, _)| status == from) {
            *status = (*to).to_owned();
        }
    }
    outcome
}
