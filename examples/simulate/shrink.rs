//! Makes a failing history smaller: leaves out what it fails without.

use lockable::mends::Mend;

use super::{
    history::History,
    run::{Ran, run},
    world::Weather,
};

/// How often a smaller history is tried.
const TRIES: usize = 400;

/// The smallest history found that fails in the same way, and what became of it.
pub fn shrink(history: &History, off: Option<Mend>, ran: Ran) -> (History, Ran) {
    let kind = |ran: &Ran| ran.violation.as_ref().and_then(|what| what.split(':').next().map(str::to_owned));
    let expected = kind(&ran);
    let (mut best, mut best_ran, mut tries) = (history.clone(), ran, 0);
    let mut attempt = |best: &mut History, smaller: History| {
        tries += 1;
        if tries > TRIES {
            return false;
        }
        let ran = run(&smaller, off, false);
        let fails = kind(&ran) == expected;
        if fails {
            *best = smaller;
            best_ran = ran;
        }
        fails
    };
    let calm = History { weather: Weather::default(), ..best.clone() };
    attempt(&mut best, calm);
    // Halves first, then quarters, down to single ones.
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
