use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    decode::Answer,
    encode::{command, size},
};
use crate::store::redis::command_error::Fault;

/// How many commands may wait for their answers, those included for which nobody
/// waits any more: all requests and waiters of a server, and half as many again.
pub(super) const PENDING_MAX: usize = 32_768;
/// How many bytes may wait to be sent. After Redis has forgotten its scripts as
/// many requests as there may be at once each send theirs as a whole.
pub(super) const OUTGOING_BYTES_MAX: usize = 32 << 20;
/// How much room is kept, in bytes and in commands, after there was need for more.
const ROOM_KEPT_MAX: usize = 64 << 10;
const SLOTS_KEPT_MAX: usize = 1024;

pub(super) type Answered = Result<Answer, Fault>;

/// What is between those who ask and the driver.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Commands that have not been taken to be sent.
    outgoing: Vec<u8>,
    /// Those who wait for an answer, in the order in which they asked.
    slots: VecDeque<Slot>,
    /// No slot has an earlier deadline.
    soonest: Option<Instant>,
    /// The driver, unless it was woken and has not come yet.
    driver: Option<Waker>,
    /// Nobody asks any more.
    is_left: bool,
    /// Why there will be no answers any more.
    end: Option<String>,
}

struct Slot {
    /// `None` once it was too late. The place is kept for the answer, which may come yet.
    asker: Option<oneshot::Sender<Answered>>,
    deadline: Instant,
}

/// What the driver has to do.
pub(super) struct Taken {
    pub(super) soonest: Option<Instant>,
    pub(super) is_left: bool,
}

impl Queue {
    /// Has a command of these words sent, unless too much is under way.
    pub(super) fn push<'a>(
        &self,
        words: impl Iterator<Item = &'a str> + Clone,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Answered>, Fault> {
        let size = size(words.clone());
        let (asker, answered) = oneshot::channel();
        let mut state = self.state();
        if let Some(reason) = &state.end {
            return Err(Fault::Gone(reason.clone()));
        }
        if state.slots.len() >= PENDING_MAX || state.outgoing.len() + size > OUTGOING_BYTES_MAX {
            return Err(Fault::Full);
        }
        state.outgoing.reserve(size);
        command(&mut state.outgoing, words);
        state.slots.push_back(Slot { asker: Some(asker), deadline });
        state.soonest = Some(state.soonest.map_or(deadline, |soonest| soonest.min(deadline)));
        // Once for all that ask before it comes, whose commands go out together.
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(answered)
    }

    /// Takes what is to be sent, if `sent` has gone out as a whole, and has the
    /// driver woken when there is more.
    pub(super) fn take(&self, sent: &mut Vec<u8>, driver: &Waker) -> Taken {
        let mut state = self.state();
        if sent.is_empty() {
            sent.shrink_to(ROOM_KEPT_MAX);
            std::mem::swap(sent, &mut state.outgoing);
        }
        if state.driver.is_none() {
            state.driver = Some(driver.clone());
        }
        Taken { soonest: state.soonest, is_left: state.is_left }
    }

    /// Gives an answer to the one who has waited longest. `false` if nobody has.
    pub(super) fn answer(&self, answer: Answer) -> bool {
        let mut state = self.state();
        let slot = state.slots.pop_front();
        if state.slots.is_empty() && state.slots.capacity() > SLOTS_KEPT_MAX {
            state.slots.shrink_to(SLOTS_KEPT_MAX);
        }
        drop(state);
        let is_expected = slot.is_some();
        if let Some(asker) = slot.and_then(|slot| slot.asker) {
            // Whoever has gone away needs no answer.
            let _ = asker.send(Ok(answer));
        }
        is_expected
    }

    /// Tells those who have waited too long; returns when to look again.
    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let mut soonest = None;
        for slot in &mut state.slots {
            if slot.deadline > now {
                if slot.asker.is_some() {
                    soonest = Some(soonest.map_or(slot.deadline, |soonest: Instant| soonest.min(slot.deadline)));
                }
            } else if let Some(asker) = slot.asker.take() {
                let _ = asker.send(Err(Fault::Slow));
            }
        }
        state.soonest = soonest;
        soonest
    }

    /// Tells all who wait that there will be no answer, and all who ask from now on.
    pub(super) fn end(&self, reason: String) {
        let mut state = self.state();
        let slots = std::mem::take(&mut state.slots);
        state.outgoing = Vec::new();
        state.end = Some(reason.clone());
        drop(state);
        for asker in slots.into_iter().filter_map(|slot| slot.asker) {
            let _ = asker.send(Err(Fault::Gone(reason.clone())));
        }
    }

    /// Tells the driver that nobody will ask any more.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.is_left = true;
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// All that is done under the lock leaves it sound, even where it would panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[test]
    fn no_more_wait_than_may_and_places_are_kept_for_late_answers() {
        let queue = Queue::default();
        let first = queue.push(["PING"].into_iter(), soon()).unwrap();
        for _ in 1..PENDING_MAX {
            queue.push(["PING"].into_iter(), soon()).unwrap();
        }
        assert!(matches!(queue.push(["PING"].into_iter(), soon()), Err(Fault::Full)));
        assert_eq!(queue.expire(soon()), None);
        assert!(matches!(first.blocking_recv(), Ok(Err(Fault::Slow))));
        assert!(matches!(queue.push(["PING"].into_iter(), soon()), Err(Fault::Full)));
        for _ in 0..PENDING_MAX {
            assert!(queue.answer(Answer::Other));
        }
        assert!(!queue.answer(Answer::Other));
        assert!(queue.state().slots.capacity() <= SLOTS_KEPT_MAX);
        assert!(queue.push(["PING"].into_iter(), soon()).is_ok());
    }

    #[test]
    fn no_more_is_outgoing_than_may_and_its_room_is_given_back() {
        let queue = Queue::default();
        let half = "x".repeat(OUTGOING_BYTES_MAX / 2);
        queue.push([&*half].into_iter(), soon()).unwrap();
        assert!(matches!(queue.push([&*half].into_iter(), soon()), Err(Fault::Full)));
        let mut sent = Vec::new();
        queue.take(&mut sent, Waker::noop());
        assert!(sent.len() > half.len());
        assert!(queue.push([&*half].into_iter(), soon()).is_ok());
        for _ in 0..3 {
            sent.clear();
            queue.take(&mut sent, Waker::noop());
        }
        sent.clear();
        queue.take(&mut sent, Waker::noop());
        assert!(sent.capacity() <= ROOM_KEPT_MAX && queue.state().outgoing.capacity() <= ROOM_KEPT_MAX);
    }

    #[test]
    fn the_soonest_deadline_is_known_whoever_asked_first() {
        let queue = Queue::default();
        let (early, late) = (soon(), soon() + Duration::from_secs(9));
        let waiting = [late, early, late].map(|deadline| queue.push(["PING"].into_iter(), deadline).unwrap());
        assert_eq!(queue.take(&mut Vec::new(), Waker::noop()).soonest, Some(early));
        assert_eq!(queue.expire(early), Some(late));
        for text in ["a", "b", "c"] {
            queue.answer(Answer::Text(text.into()));
        }
        let answers = waiting.map(|answered| answered.blocking_recv().unwrap());
        let text = |text: &str| Answer::Text(text.into());
        assert!(matches!(&answers[0], Ok(answer) if *answer == text("a")));
        assert!(matches!(&answers[1], Err(Fault::Slow)));
        assert!(matches!(&answers[2], Ok(answer) if *answer == text("c")));
    }
}
