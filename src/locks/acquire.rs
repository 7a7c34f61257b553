use std::time::Duration;

use super::{
    Locks, LocksError,
    grant_codec::{read_held, read_time},
    journal::Change,
    requests::{AcquireRequest, Answer, Keys, read_standing, script, write_rate},
    revert::Undo,
    script_args::Words,
};
use crate::{
    lock::{AcquireOutcome, Attempt, Grant, Held, Lease, Payment, Refusal},
    store::{Reply, Script, StoreError},
};

static ACQUIRE: Script = script!("acquire" = "grant_codec" "keys" "grant" "acquire" "tombstone" "regrant" "entries" "queue" "positions" "leave_queue" "acquire_slow");

/// How an acquire stands that may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is decided.
    Over(AcquireOutcome),
    /// It is not, while somebody else holds the lock.
    Waiting(Held),
    /// It is not, since nothing is granted for so long.
    Recovering { rest: Duration },
    /// Another request of the same owner has its lock key.
    Replaced(Held),
    /// It does not stand in line, and the lock is not held for it.
    Gone,
    /// Its owner has released the lock meanwhile.
    Cancelled,
}

impl Locks {
    /// Tries to acquire a lock, without waiting for it.
    ///
    /// # Errors
    /// When the store gave no answer in time. The lock is then not held, or
    /// not for longer than it takes to reach the store again: nobody knows
    /// of a grant whose answer was lost, so it is taken back. The same is done
    /// when the future is dropped before it is ready.
    pub async fn acquire(&self, request: &AcquireRequest) -> Result<Answer<AcquireOutcome>, LocksError> {
        let attempt = Attempt::new();
        let undo = Undo::armed(self, request, attempt);
        let answer = match self.ask(request, attempt, Duration::ZERO).await {
            // Nothing was granted that would have to be taken back.
            Err(error) if error.is_sure() => {
                undo.disarm();
                return Err(error);
            }
            answer => answer?,
        };
        undo.disarm();
        let outcome = match answer.outcome {
            Turn::Over(acquired) => acquired,
            Turn::Waiting(held) | Turn::Replaced(held) => AcquireOutcome::Refused(Refusal::Held(held)),
            Turn::Cancelled => AcquireOutcome::Refused(Refusal::Cancelled),
            Turn::Recovering { rest } => AcquireOutcome::Refused(Refusal::Recovering { rest }),
            Turn::Gone => AcquireOutcome::Refused(Refusal::TimedOut(None)),
        };
        Ok(Answer { outcome, standing: answer.standing })
    }

    /// Asks for a lock once. Where somebody holds it, the attempt stands in line
    /// from then on if it is to wait, for that long. Whoever calls this sees to
    /// it that the attempt is withdrawn when its answer is lost.
    ///
    /// # Errors
    /// When the store gave no answer in time, or a long lease could not be
    /// written down.
    pub async fn ask(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        wait: Duration,
    ) -> Result<Answer<Turn>, LocksError> {
        match self.store.is_spread() {
            // Boxed: its room would be taken in every request, also without a cluster.
            true => Box::pin(self.ask_spread(request, attempt, wait)).await,
            false => self.ask_once(request, attempt, wait).await,
        }
    }

    /// The same, where the quotas in the request are those of the lock's shard.
    pub(super) async fn ask_once(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        wait: Duration,
    ) -> Result<Answer<Turn>, LocksError> {
        let account = request.claimant.account.key_text();
        let lock_key = request.lock.lock_key();
        let shard = self.store.shard_of(&lock_key);
        let deadline = self.deadline(shard)?;
        let is_long = self.is_long(request.lease);
        let mut keys = Keys::few(&self.store, &lock_key, account.as_str());
        let mut args = Words::new();
        args.write(|text| request.claimant.write_head(text))
            .text(&lock_key)
            .number(request.lease.as_ms())
            .text(attempt.key_text().as_str())
            .number(deadline.us)
            .number(request.held_max)
            .write(|text| request.write_about(text));
        let epoch = self.era_for(shard);
        let few = if wait.is_zero() && !is_long && request.payment == Payment::Paid {
            Some(deadline.settled(self.store.run_replicated(&ACQUIRE, &keys.slices(), &args.slices()).await).await?)
        } else {
            None
        };
        let reply = match few.filter(Keys::were_enough) {
            Some(reply) => reply,
            None => {
                keys.complete(&self.store, &lock_key, account.as_str(), &request.payment);
                args.number(self.store.epoch_us(shard))
                    .number(wait.as_millis() as u64)
                    .text(&self.pod)
                    .number(request.waiting_max)
                    .text(if is_long { "1" } else { "" });
                write_rate(&mut args, &request.payment);
                // Boxed: its room would be taken in every request.
                deadline
                    .settled(Box::pin(self.store.run_replicated(&ACQUIRE, &keys.slices(), &args.slices())).await)
                    .await?
            }
        };
        Self::count("acquire", &reply);
        let standing = read_standing(&reply, &request.payment)?;
        if reply.status() == "busy" {
            let paid = AcquireRequest { payment: Payment::Paid, ..request.clone() };
            let again = Box::pin(self.ask_once(&paid, attempt, wait)).await?;
            return Ok(Answer { outcome: again.outcome, standing });
        }
        let outcome = read_turn(&reply, 2, request.lease)?;
        if let Turn::Over(AcquireOutcome::Granted(grant) | AcquireOutcome::Again(grant)) = &outcome {
            self.store.note_fence(shard, grant.fence.as_u64());
            if let Some(change) = Change::read(&reply, 4)? {
                let of = (&request.lock, &request.claimant);
                Box::pin(self.record_grant(epoch.as_ref(), of, grant, change)).await?;
            }
            self.recorder.granted(request, &lock_key, grant);
        }
        Ok(Answer { outcome, standing })
    }
}

impl LocksError {
    /// Whether it is sure that nothing was done.
    pub fn is_sure(&self) -> bool {
        matches!(
            self,
            Self::TooLate | Self::Foreign | Self::Full | Self::Store(StoreError::NotSent(_) | StoreError::Refused(_))
        )
    }
}

/// Reads how an acquire stands; what belongs to its status begins at `index`.
pub(super) fn read_turn(reply: &Reply, index: usize, lease: Lease) -> Result<Turn, LocksError> {
    let acquired = match reply.status() {
        status @ ("granted" | "again") => {
            let (fence, expires_at) = (reply.word(index)?, read_time(reply, index + 1)?);
            let grant = Grant { fence, lease, expires_at };
            if status == "again" { AcquireOutcome::Again(grant) } else { AcquireOutcome::Granted(grant) }
        }
        "held" | "in_line" => return Ok(Turn::Waiting(read_held(reply, index)?)),
        "recovering" => return Ok(Turn::Recovering { rest: Duration::from_millis(reply.word(index)?) }),
        "replaced" => return Ok(Turn::Replaced(read_held(reply, index)?)),
        "gone" => return Ok(Turn::Gone),
        "cancelled" => return Ok(Turn::Cancelled),
        "over_quota" => AcquireOutcome::Refused(Refusal::OverQuota { held: reply.word(index)? }),
        "too_many_waiting" => AcquireOutcome::Refused(Refusal::TooManyWaiting { waiting: reply.word(index)? }),
        "rate_limited" => {
            AcquireOutcome::Refused(Refusal::RateLimited { retry_after: Duration::from_micros(reply.word(index)?) })
        }
        "late" => return Err(LocksError::TooLate),
        _ => return Err(reply.bad().into()),
    };
    Ok(Turn::Over(acquired))
}
