//! Shrinks a failing history: removes the steps and faults that the failure does not need.

use lockable::safeguards::Safeguard;

use super::{
    history::History,
    run::{RunResult, run},
    world::MessageFaults,
};

/// The maximum number of runs.
const TRIES: usize = 400;

/// Returns the smallest found history that fails in the same way, and its result.
pub fn shrink(history: &History, off: Option<Safeguard>, result: RunResult) -> (History, RunResult) {
    let kind =
        |result: &RunResult| result.violation.as_ref().and_then(|what| what.split(':').next().map(str::to_owned));
    let expected = kind(&result);
    let (mut best, mut best_ran, mut tries) = (history.clone(), result, 0);
    let mut attempt = |best: &mut History, smaller: History| {
        tries += 1;
        if tries > TRIES {
            return false;
        }
        let result = run(&smaller, off, false);
        let fails = kind(&result) == expected;
        if fails {
            *best = smaller;
            best_ran = result;
        }
        fails
    };
    let without_message_faults = History { message_faults: MessageFaults::default(), ..best.clone() };
    attempt(&mut best, without_message_faults);
    // Removes halves first, then quarters, down to single ones.
    let mut size = best.steps.len().max(best.faults.len()).div_ceil(2);
    loop {
        let (mut steps_at, mut faults_at) = (0, 0);
        while faults_at < best.faults.len() {
            let mut smaller = best.clone();
            smaller.faults.drain(faults_at..(faults_at + size).min(best.faults.len()));
            if !attempt(&mut best, smaller) {
                faults_at += size;
            }
        }
        while steps_at < best.steps.len() {
            let mut smaller = best.clone();
            smaller.steps.drain(steps_at..(steps_at + size).min(best.steps.len()));
            if !attempt(&mut best, smaller) {
                steps_at += size;
            }
        }
        if size == 1 {
            break;
        }
        size = size.div_ceil(2);
    }
    let single = best.steps.iter().map(|step| step.hang_up_ms.is_some()).collect::<Vec<_>>();
    for (at, hangs_up) in single.into_iter().enumerate() {
        if hangs_up {
            let mut smaller = best.clone();
            smaller.steps[at].hang_up_ms = None;
            attempt(&mut best, smaller);
        }
    }
    (best, best_ran)
}
