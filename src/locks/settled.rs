//! The server answers 503 only when the unanswered command can no longer take effect. The
//! holder may use the lock again right after the 503, and a delayed command must not undo
//! what it confirms then.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Locks, LocksError};
use crate::{
    lock::{FencingToken, RateCharge},
    safeguards::{self, Safeguard},
    store::{Reply, Shard, StoreError, StoreMatch},
};

/// The time after which the store no longer executes a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// By the store's clock, in microseconds since 1970. Scripts change nothing later.
    pub(super) us: u64,
    /// By this server's clock.
    expires: Instant,
}

impl Locks {
    /// Timers have a resolution of 1 ms; another millisecond covers their rounding.
    const ROUNDING: Duration = Duration::from_millis(2);

    /// The deadline of a command that is sent to a shard now.
    ///
    /// # Errors
    /// The store's clock is not known yet, the database is not known to name the store, or
    /// the request may have been sent before a stall of this process.
    pub(super) fn deadline(&self, shard: Shard) -> Result<Deadline, LocksError> {
        let now = Instant::now();
        if self.stall_guard.is_suspect(now) {
            return Err(LocksError::TooLate);
        }
        if self.store.store_match(shard) != StoreMatch::Named {
            return Err(LocksError::Foreign);
        }
        // `now_us` is a lower bound of the store's time: once the timeout has elapsed here,
        // the deadline has passed there.
        let us = if safeguards::is_on(Safeguard::Deadline) { self.deadline_us(shard)? } else { FencingToken::MAX };
        Ok(Deadline { us, expires: now + self.store.timeout() + Self::ROUNDING })
    }
}

impl Deadline {
    /// The pause before a retry, while a recovery compares the grant with the journal.
    const UNSETTLED_PAUSE: Duration = Duration::from_millis(50);

    /// Whether to retry an `unsettled` command, whose grant a recovery has not compared with
    /// the journal yet; waits before it returns `true`. A command that charges the rate in
    /// its script is not retried: it would be charged twice.
    pub(super) async fn should_retry(self, reply: &Reply, charge: &RateCharge) -> bool {
        let again = Instant::now() + Self::UNSETTLED_PAUSE;
        if reply.status() != "unsettled" || *charge != RateCharge::Done || again >= self.expires {
            return false;
        }
        Box::pin(sleep_until(again)).await;
        true
    }

    /// Returns the outcome of a command. If there was no answer, waits until the deadline has
    /// passed and the command can no longer take effect.
    pub(super) async fn settled<T>(self, outcome: Result<T, StoreError>) -> Result<T, LocksError> {
        if matches!(outcome, Err(StoreError::NoAnswer(_))) && safeguards::is_on(Safeguard::AnswerSettled) {
            // Boxed: the future would add its size to every request.
            Box::pin(sleep_until(self.expires)).await;
        }
        Ok(outcome?)
    }
}
