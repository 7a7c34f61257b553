//! No answer is given while the command may still act. A command that got no answer
//! may be on its way, and its holder may use the lock again as soon as it is told
//! 503: what it confirms then must not be undone by the former command.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Locks, LocksError};
use crate::{
    lock::{FencingToken, Payment},
    mends::{self, Mend},
    store::{Belonging, Reply, Shard, StoreError},
};

/// By when a command is carried out, or never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// In microseconds since 1970, by the store's clock. Scripts do nothing later.
    pub(super) us: u64,
    /// By this server's clock.
    over: Instant,
}

impl Locks {
    /// A millisecond is the finest that timers keep, and one more is for their
    /// rounding.
    const ROUNDING: Duration = Duration::from_millis(2);

    /// The deadline of a command that is sent to a shard now.
    ///
    /// # Errors
    /// When the store's time is not known yet, or is not known to be the one that the
    /// database names, or the request may have been sent before this process stood still.
    pub(super) fn deadline(&self, shard: Shard) -> Result<Deadline, LocksError> {
        let now = Instant::now();
        if self.stall_guard.is_suspect(now) {
            return Err(LocksError::TooLate);
        }
        if self.store.belonging(shard) != Belonging::Ours {
            return Err(LocksError::Foreign);
        }
        // The store's time is known to be at least this, so the deadline has passed
        // there when as much time has passed here.
        let us = if mends::is_on(Mend::Deadline) { self.deadline_us(shard)? } else { FencingToken::MAX };
        Ok(Deadline { us, over: now + self.store.timeout() + Self::ROUNDING })
    }
}

impl Deadline {
    /// How long to leave it to a recovery to compare a grant with the journal.
    const UNSETTLED_PAUSE: Duration = Duration::from_millis(50);

    /// Whether a command is to be sent again, since it did nothing but say that its grant
    /// was not compared with the journal yet, and there is time left. One that paid for
    /// itself would pay twice.
    pub(super) async fn is_to_repeat(self, reply: &Reply, payment: &Payment) -> bool {
        let again = Instant::now() + Self::UNSETTLED_PAUSE;
        if reply.status() != "unsettled" || *payment != Payment::Paid || again >= self.over {
            return false;
        }
        Box::pin(sleep_until(again)).await;
        true
    }

    /// Returns what became of a command, but not before it is sure that the command
    /// is not carried out later.
    pub(super) async fn settled<T>(self, outcome: Result<T, StoreError>) -> Result<T, LocksError> {
        if matches!(outcome, Err(StoreError::NoAnswer(_))) && mends::is_on(Mend::AnswerSettled) {
            // Boxed: its room would be taken in every request.
            Box::pin(sleep_until(self.over)).await;
        }
        Ok(outcome?)
    }
}
