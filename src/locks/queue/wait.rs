use std::time::Duration;

use metrics::histogram;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::locks::{
    AcquireProgress, Locks, LocksError,
    requests::{AcquireRequest, LockKey, WithRate},
    revert::{PendingRevert, RevertOnDrop},
};
use crate::{
    lock::{AcquireOutcome, Attempt, Grant, Held, RateCharge, Refusal},
    safeguards::{self, Safeguard},
};

/// The longest time between two claims of a waiting request. Messages and polls of the queue
/// normally wake it earlier.
const CLAIM_INTERVAL: Duration = Duration::from_secs(10);
/// The pause after a claim that the store did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The outcome of an acquire that could wait. Dropping it without [`confirm`](Self::confirm)
/// reverts a grant.
#[must_use]
pub struct UnconfirmedOutcome<'a> {
    answer: WithRate<AcquireOutcome>,
    revert: Option<RevertOnDrop<'a>>,
}

impl Locks {
    /// Acquires a lock, and waits for it in its queue for up to `wait` or until `draining`.
    /// Notifies `queued` when the lock is not granted at once. The caller confirms the grant after a last check of the client and its token.
    ///
    /// # Errors
    /// This server's limit of queued requests is reached, or the store did not answer until
    /// the end of the wait. The attempt is then reverted, also if the future is dropped
    /// before it is ready.
    pub async fn acquire_waiting<'a>(
        &'a self,
        request: &'a AcquireRequest,
        wait: Duration,
        draining: &CancellationToken,
        queued: &Notify,
    ) -> Result<UnconfirmedOutcome<'a>, LocksError> {
        if draining.is_cancelled() {
            return Box::pin(self.acquire_unconfirmed(request)).await.map(UnconfirmedOutcome::drained);
        }
        let attempt = Attempt::new();
        let ends = Instant::now() + wait;
        let slot = self.take_wait_slot(&request.lock, attempt)?;
        let revert = RevertOnDrop::armed(self, request, attempt);

        // Script calls are boxed here and below: their futures occupy memory only during a
        // call, not during the wait.
        let first = match Box::pin(self.acquire_or_enqueue(request, attempt, wait)).await {
            Err(error) if error.is_sure() => {
                revert.disarm();
                return Err(error);
            }
            answer => answer?,
        };
        let rate = first.rate;
        let answered = |outcome| UnconfirmedOutcome::confirmed(WithRate { outcome, rate });
        let mut progress = Ok(first.outcome);
        let (mut is_over, mut may_be_granted) = (false, false);
        loop {
            let next = match progress {
                Ok(AcquireProgress::Done(outcome)) => {
                    return Ok(UnconfirmedOutcome::new(WithRate { outcome, rate }, revert));
                }
                // No revert: the newer request uses the queue entry.
                Ok(AcquireProgress::Replaced(held)) => {
                    revert.disarm();
                    return Ok(answered(AcquireOutcome::Refused(Refusal::Replaced(held))));
                }
                Ok(AcquireProgress::Cancelled) => {
                    revert.disarm();
                    return Ok(answered(AcquireOutcome::Refused(Refusal::Cancelled)));
                }
                Ok(AcquireProgress::Waiting(held)) if is_over => {
                    end_wait(revert, may_be_granted);
                    return Ok(answered(wait_ended(Some(held), draining)));
                }
                Ok(AcquireProgress::Recovering { remaining }) if is_over => {
                    end_wait(revert, may_be_granted);
                    return Ok(answered(AcquireOutcome::Refused(Refusal::Recovering { remaining })));
                }
                Ok(AcquireProgress::NotQueued) if is_over => {
                    end_wait(revert, may_be_granted);
                    return Ok(answered(wait_ended(None, draining)));
                }
                // The wait is over: no time for another attempt.
                Err(error) if is_over || ends <= Instant::now() => return Err(error),
                Ok(AcquireProgress::Waiting(held)) => {
                    slot.expect_expiry(held.remaining);
                    ends.min(Instant::now() + CLAIM_INTERVAL)
                }
                Ok(AcquireProgress::Recovering { remaining }) => {
                    slot.expect_expiry(remaining);
                    ends.min(Instant::now() + CLAIM_INTERVAL)
                }
                // The hand-over skipped the entry, or the store lost the queue.
                Ok(AcquireProgress::NotQueued) => {
                    let remaining = ends.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                    let again = async {
                        let again = AcquireRequest { charge: RateCharge::Done, ..request.clone() };
                        self.acquire_or_enqueue(&again, attempt, remaining).await
                    };
                    progress = Box::pin(again).await.map(|answer| answer.outcome);
                    continue;
                }
                Err(error) => {
                    // The store or the journal may have the grant.
                    may_be_granted = true;
                    tracing::debug!(%error, "a waiting request got no answer and continues");
                    ends.min(Instant::now() + RETRY_PAUSE)
                }
            };
            queued.notify_one();
            tokio::select! {
                // A fixed order keeps simulations deterministic.
                biased;
                () = sleep_until(next) => {}
                () = slot.woken() => {}
                () = draining.cancelled() => is_over = true,
            }
            is_over |= ends <= Instant::now();
            progress = Box::pin(self.claim(request, attempt, is_over)).await;
            if let Ok(AcquireProgress::Done(AcquireOutcome::Granted(grant))) = &progress {
                self.measure_hand_over(&request.lock, grant);
            }
        }
    }
}

impl Locks {
    /// Records the time from hand-over to claim. The fence is the time of the hand-over in
    /// microseconds, unless the store's clock was set back before.
    fn measure_hand_over(&self, lock: &LockKey, grant: &Grant) {
        let shard = self.store.shard_of(&lock.lock_key());
        let now_us = self.store.now_us(shard).unwrap_or_default();
        let passed = Duration::from_micros(now_us.saturating_sub(grant.fence.as_u64()));
        histogram!("lockable_handover_duration_seconds").record(passed);
    }
}

impl<'a> UnconfirmedOutcome<'a> {
    pub(in crate::locks) fn new(answer: WithRate<AcquireOutcome>, revert: RevertOnDrop<'a>) -> Self {
        Self { answer, revert: Some(revert) }
    }

    fn confirmed(answer: WithRate<AcquireOutcome>) -> Self {
        Self { answer, revert: None }
    }

    /// Whether the outcome is a grant, which dropping reverts.
    pub fn has_grant(&self) -> bool {
        matches!(self.answer.outcome, AcquireOutcome::Granted(_) | AcquireOutcome::Again(_))
    }

    /// Returns the outcome, and keeps its grant.
    pub fn confirm(self) -> WithRate<AcquireOutcome> {
        if let Some(revert) = self.revert {
            revert.disarm();
        }
        self.answer
    }

    /// Returns the outcome; its grant is reverted unless the caller cancels the revert.
    pub fn confirm_later(self) -> (WithRate<AcquireOutcome>, Option<PendingRevert>) {
        (self.answer, self.revert.map(RevertOnDrop::postpone))
    }

    pub(in crate::locks) fn without_revert(self) -> Self {
        Self::confirmed(self.confirm())
    }

    fn drained(self) -> Self {
        Self { answer: self.answer.drained(), ..self }
    }
}

/// Ends a wait without a grant. If an answer was missing, it may have been a grant that the
/// journal has although the store does not: the revert stays armed.
fn end_wait(revert: RevertOnDrop<'_>, may_be_granted: bool) {
    if !may_be_granted || !safeguards::is_on(Safeguard::WaitReverted) {
        revert.disarm();
    }
}

fn wait_ended(held: Option<Held>, draining: &CancellationToken) -> AcquireOutcome {
    AcquireOutcome::Refused(match draining.is_cancelled() {
        true => Refusal::Draining(held),
        false => Refusal::TimedOut(held),
    })
}

impl WithRate<AcquireOutcome> {
    /// Turns `Held` into `Draining`: the client can retry with another server.
    fn drained(self) -> Self {
        let outcome = match self.outcome {
            AcquireOutcome::Refused(Refusal::Held(held)) => AcquireOutcome::Refused(Refusal::Draining(Some(held))),
            outcome => outcome,
        };
        Self { outcome, ..self }
    }
}
