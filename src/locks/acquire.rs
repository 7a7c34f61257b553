use std::time::Duration;

use super::{
    Locks, LocksError, UnconfirmedOutcome,
    grant_codec::{read_held, read_time},
    journal::Change,
    requests::{AcquireRequest, Keys, WithRate, read_rate_status, script, write_rate},
    revert::RevertOnDrop,
    script_args::ScriptArgs,
};
use crate::{
    lock::{AcquireOutcome, Attempt, Grant, Held, Lease, RateCharge, Refusal},
    store::{Reply, Script, StoreError},
};

static ACQUIRE: Script = script!("acquire" = "grant_codec" "keys" "grant" "acquire" "tombstone" "regrant" "entries" "queue" "positions" "leave_queue" "acquire_slow");

/// Progress of an acquire that may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireProgress {
    /// The final outcome.
    Done(AcquireOutcome),
    /// Another holder has the lock.
    Waiting(Held),
    /// A recovery grants nothing for this long.
    Recovering { remaining: Duration },
    /// A newer request of the same owner took over the queue entry.
    Replaced(Held),
    /// The attempt has neither a queue entry nor the lock.
    NotQueued,
    /// Its owner released the lock meanwhile, and so cancelled the request.
    Cancelled,
}

impl Locks {
    /// Acquires a lock without waiting for it.
    ///
    /// # Errors
    /// The store returned no answer in time. A grant whose answer was lost is reverted as
    /// soon as the store answers again, also if the future is dropped before it is ready.
    pub async fn acquire(&self, request: &AcquireRequest) -> Result<WithRate<AcquireOutcome>, LocksError> {
        self.acquire_unconfirmed(request).await.map(UnconfirmedOutcome::confirm)
    }

    /// Does the same; the caller confirms the grant after a last check of the client.
    ///
    /// # Errors
    /// As of [`acquire`](Self::acquire).
    pub async fn acquire_unconfirmed<'a>(
        &'a self,
        request: &'a AcquireRequest,
    ) -> Result<UnconfirmedOutcome<'a>, LocksError> {
        let attempt = Attempt::new();
        let revert = RevertOnDrop::armed(self, request, attempt);
        let answer = match self.acquire_or_enqueue(request, attempt, Duration::ZERO).await {
            Err(error) if error.is_sure() => {
                revert.disarm();
                return Err(error);
            }
            answer => answer?,
        };
        let outcome = match answer.outcome {
            AcquireProgress::Done(acquired) => acquired,
            AcquireProgress::Waiting(held) | AcquireProgress::Replaced(held) => {
                AcquireOutcome::Refused(Refusal::Held(held))
            }
            AcquireProgress::Cancelled => AcquireOutcome::Refused(Refusal::Cancelled),
            AcquireProgress::Recovering { remaining } => AcquireOutcome::Refused(Refusal::Recovering { remaining }),
            AcquireProgress::NotQueued => AcquireOutcome::Refused(Refusal::TimedOut(None)),
        };
        let unconfirmed = UnconfirmedOutcome::new(WithRate { outcome, rate: answer.rate }, revert);
        Ok(if unconfirmed.has_grant() { unconfirmed } else { unconfirmed.without_revert() })
    }

    /// Acquires a lock, or adds the attempt to the lock's queue for `wait` if another
    /// holder has it. The caller must revert the attempt when the answer is lost.
    ///
    /// # Errors
    /// The store returned no answer in time, or the journal did not record a long lease.
    pub async fn acquire_or_enqueue(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        wait: Duration,
    ) -> Result<WithRate<AcquireProgress>, LocksError> {
        match self.store.is_sharded() {
            // Boxed: only clusters need this future, and every request would carry its size.
            true => Box::pin(self.acquire_across_shards(request, attempt, wait)).await,
            false => self.acquire_in_shard(request, attempt, wait).await,
        }
    }

    /// Does the same with the quotas of the lock's shard in the request.
    pub(super) async fn acquire_in_shard(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        wait: Duration,
    ) -> Result<WithRate<AcquireProgress>, LocksError> {
        let account = request.claimant.account.key_text();
        let lock_key = request.lock.lock_key();
        let shard = self.store.shard_of(&lock_key);
        let deadline = self.deadline(shard)?;
        let is_long = self.is_long(request.lease);
        let mut keys = Keys::minimal(&self.store, &lock_key, account.as_str());
        let mut args = ScriptArgs::new();
        args.write(|text| request.claimant.write_holder_prefix(text))
            .text(&lock_key)
            .number(request.lease.as_ms())
            .text(attempt.key_text().as_str())
            .number(deadline.us)
            .number(request.held_max)
            .write(|text| request.write_metadata(text));
        let epoch = self.epoch_for(shard);
        let first = if wait.is_zero() && !is_long && request.charge == RateCharge::Done {
            Some(deadline.settled(self.store.eval_replicated(&ACQUIRE, &keys.slices(), &args.slices()).await).await?)
        } else {
            None
        };
        let reply = match first.filter(Keys::were_sufficient) {
            Some(reply) => reply,
            None => {
                keys.add_remaining(&self.store, &lock_key, account.as_str(), &request.charge);
                args.number(self.store.epoch_us(shard))
                    .number(wait.as_millis() as u64)
                    .text(&self.channel)
                    .number(request.waiting_max)
                    .text(if is_long { "1" } else { "" });
                write_rate(&mut args, &request.charge);
                // Boxed: the future would add its size to every request.
                deadline
                    .settled(Box::pin(self.store.eval_replicated(&ACQUIRE, &keys.slices(), &args.slices())).await)
                    .await?
            }
        };
        Self::count("acquire", &reply);
        let rate = read_rate_status(&reply, &request.charge)?;
        if reply.status() == "busy" {
            let charged = AcquireRequest { charge: RateCharge::Done, ..request.clone() };
            let again = Box::pin(self.acquire_in_shard(&charged, attempt, wait)).await?;
            return Ok(WithRate { outcome: again.outcome, rate });
        }
        let outcome = read_progress(&reply, 2, request.lease)?;
        if let AcquireProgress::Done(AcquireOutcome::Granted(grant) | AcquireOutcome::Again(grant)) = &outcome {
            self.store.record_fence(shard, grant.fence.as_u64());
            if let Some(change) = Change::read(&reply, 4)? {
                let of = (&request.lock, &request.claimant);
                Box::pin(self.journal_grant(epoch.as_ref(), of, grant, change)).await?;
            }
            self.history_buffer.granted(request, &lock_key, grant);
        }
        Ok(WithRate { outcome, rate })
    }
}

impl LocksError {
    /// Whether the store certainly changed nothing.
    pub fn is_sure(&self) -> bool {
        matches!(
            self,
            Self::TooLate | Self::Foreign | Self::Full | Self::Store(StoreError::NotSent(_) | StoreError::Refused(_))
        )
    }
}

/// Decodes the progress of an acquire; the fields after the status begin at `index`.
pub(super) fn read_progress(reply: &Reply, index: usize, lease: Lease) -> Result<AcquireProgress, LocksError> {
    let acquired = match reply.status() {
        status @ ("granted" | "again") => {
            let (fence, expires_at) = (reply.word(index)?, read_time(reply, index + 1)?);
            let grant = Grant { fence, lease, expires_at };
            if status == "again" { AcquireOutcome::Again(grant) } else { AcquireOutcome::Granted(grant) }
        }
        "held" | "queued" => return Ok(AcquireProgress::Waiting(read_held(reply, index)?)),
        "recovering" => {
            return Ok(AcquireProgress::Recovering { remaining: Duration::from_millis(reply.word(index)?) });
        }
        "replaced" => return Ok(AcquireProgress::Replaced(read_held(reply, index)?)),
        "gone" => return Ok(AcquireProgress::NotQueued),
        "cancelled" => return Ok(AcquireProgress::Cancelled),
        "over_quota" => AcquireOutcome::Refused(Refusal::OverQuota { held: reply.word(index)? }),
        "too_many_waiting" => AcquireOutcome::Refused(Refusal::TooManyWaiting { waiting: reply.word(index)? }),
        "rate_limited" => {
            AcquireOutcome::Refused(Refusal::RateLimited { retry_after: Duration::from_micros(reply.word(index)?) })
        }
        "late" => return Err(LocksError::TooLate),
        _ => return Err(reply.bad().into()),
    };
    Ok(AcquireProgress::Done(acquired))
}
