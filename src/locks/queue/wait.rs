use std::time::Duration;

use metrics::histogram;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::locks::{
    Locks, LocksError, Turn,
    requests::{AcquireRequest, Answer, LockId},
    revert::Undo,
};
use crate::{
    lock::{AcquireOutcome, Attempt, Grant, Held, Payment, Refusal},
    mends::{self, Mend},
};

/// How often a request asks how it stands, come what may. Messages and looks
/// after the line find out sooner.
const ASK_INTERVAL: Duration = Duration::from_secs(10);
/// How long to pause when the store could not be asked how a wait stands.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What a request was answered that could wait. A grant is taken back when this is dropped
/// before it is kept.
#[must_use]
pub struct Waited<'a> {
    answer: Answer<AcquireOutcome>,
    undo: Option<Undo<'a>>,
}

impl Locks {
    /// Acquires a lock, standing in line for it for as long as `wait`, or until
    /// the server is to stop. The caller keeps the grant, after a last check.
    ///
    /// # Errors
    /// When as many requests wait in this server as may, or the store gave no
    /// answer in the end. The attempt is then withdrawn, as it is when the
    /// future is dropped before it is ready.
    pub async fn acquire_in_line<'a>(
        &'a self,
        request: &'a AcquireRequest,
        wait: Duration,
        draining: &CancellationToken,
    ) -> Result<Waited<'a>, LocksError> {
        if draining.is_cancelled() {
            return Box::pin(self.acquire(request)).await.map(|answer| Waited::kept(answer.drained()));
        }
        let attempt = Attempt::new();
        let ends = Instant::now() + wait;
        let seat = self.take_seat(&request.lock, attempt)?;
        let undo = Undo::armed(self, request, attempt);

        // What asks is boxed here and below, lest the room that it takes is held
        // for as long as nobody asks.
        let first = match Box::pin(self.ask(request, attempt, wait)).await {
            Err(error) if error.is_sure() => {
                undo.disarm();
                return Err(error);
            }
            answer => answer?,
        };
        let standing = first.standing;
        let answered = |outcome| Waited::kept(Answer { outcome, standing });
        let mut turn = Ok(first.outcome);
        let (mut is_over, mut may_be_granted) = (false, false);
        loop {
            let next = match turn {
                Ok(Turn::Over(outcome)) => {
                    return Ok(Waited { answer: Answer { outcome, standing }, undo: Some(undo) });
                }
                // The other request has the lock when it is handed over.
                Ok(Turn::Replaced(held)) => {
                    undo.disarm();
                    return Ok(answered(AcquireOutcome::Refused(Refusal::Replaced(held))));
                }
                Ok(Turn::Cancelled) => {
                    undo.disarm();
                    return Ok(answered(AcquireOutcome::Refused(Refusal::Cancelled)));
                }
                Ok(Turn::Waiting(held)) if is_over => {
                    give_up(undo, may_be_granted);
                    return Ok(answered(given_up(Some(held), draining)));
                }
                Ok(Turn::Recovering { rest }) if is_over => {
                    give_up(undo, may_be_granted);
                    return Ok(answered(AcquireOutcome::Refused(Refusal::Recovering { rest })));
                }
                Ok(Turn::Gone) if is_over => {
                    give_up(undo, may_be_granted);
                    return Ok(answered(given_up(None, draining)));
                }
                // Nobody waits for yet another answer that may not come.
                Err(error) if is_over || ends <= Instant::now() => return Err(error),
                Ok(Turn::Waiting(held)) => {
                    seat.expect_lapse(held.rest);
                    ends.min(Instant::now() + ASK_INTERVAL)
                }
                Ok(Turn::Recovering { rest }) => {
                    seat.expect_lapse(rest);
                    ends.min(Instant::now() + ASK_INTERVAL)
                }
                // It was skipped, or the store has forgotten the line.
                Ok(Turn::Gone) => {
                    let rest = ends.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                    let again = async {
                        let again = AcquireRequest { payment: Payment::Paid, ..request.clone() };
                        self.ask(&again, attempt, rest).await
                    };
                    turn = Box::pin(again).await.map(|answer| answer.outcome);
                    continue;
                }
                Err(error) => {
                    // The store may have granted it, and the journal does not know.
                    may_be_granted = true;
                    tracing::debug!(%error, "a wait goes on without an answer");
                    ends.min(Instant::now() + RETRY_PAUSE)
                }
            };
            tokio::select! {
                // In this order, for simulations that must run the same each time.
                biased;
                () = sleep_until(next) => {}
                () = seat.woken() => {}
                () = draining.cancelled() => is_over = true,
            }
            is_over |= ends <= Instant::now();
            turn = Box::pin(self.collect(request, attempt, is_over)).await;
            if let Ok(Turn::Over(AcquireOutcome::Granted(grant))) = &turn {
                self.measure_handover(&request.lock, grant);
            }
        }
    }
}

impl Locks {
    /// A fence is the time at which its lock was handed over, in microseconds,
    /// unless the store's clock was set back before.
    fn measure_handover(&self, lock: &LockId, grant: &Grant) {
        let shard = self.store.shard_of(&lock.lock_key());
        let now_us = self.store.now_us(shard).unwrap_or_default();
        let passed = Duration::from_micros(now_us.saturating_sub(grant.fence.as_u64()));
        histogram!("lockable_handover_duration_seconds").record(passed);
    }
}

impl Waited<'_> {
    fn kept(answer: Answer<AcquireOutcome>) -> Self {
        Self { answer, undo: None }
    }

    /// Whether a grant is taken back unless it is kept.
    pub fn has_grant(&self) -> bool {
        matches!(self.answer.outcome, AcquireOutcome::Granted(_) | AcquireOutcome::Again(_))
    }

    /// Keeps the grant, if it is one. Returns what to answer.
    pub fn keep(self) -> Answer<AcquireOutcome> {
        if let Some(undo) = self.undo {
            undo.disarm();
        }
        self.answer
    }
}

/// Ends a wait without a grant. An answer that did not come may have been one, which the journal
/// can have although the store does not: that is taken back.
fn give_up(undo: Undo<'_>, may_be_granted: bool) {
    if !may_be_granted || !mends::is_on(Mend::WaitReverted) {
        undo.disarm();
    }
}

fn given_up(held: Option<Held>, draining: &CancellationToken) -> AcquireOutcome {
    AcquireOutcome::Refused(match draining.is_cancelled() {
        true => Refusal::Draining(held),
        false => Refusal::TimedOut(held),
    })
}

impl Answer<AcquireOutcome> {
    /// What is refused by a server that is to stop can be had from another.
    fn drained(self) -> Self {
        let outcome = match self.outcome {
            AcquireOutcome::Refused(Refusal::Held(held)) => AcquireOutcome::Refused(Refusal::Draining(Some(held))),
            outcome => outcome,
        };
        Self { outcome, ..self }
    }
}
