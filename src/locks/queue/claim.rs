use crate::locks::{
    AcquireProgress, Locks, LocksError,
    acquire::read_progress,
    journal::Change,
    requests::{AcquireRequest, Claimant, Keys, LockKey, script},
    script_args::ScriptArgs,
};
use crate::{
    lock::{AcquireOutcome, Attempt, FencingToken, RateCharge},
    store::Script,
};

static CLAIM: Script = script!(
    "claim" = "grant_codec" "keys" "grant" "tombstone" "regrant" "claim_again" "entries" "queue" "positions" "leave_queue" "claim"
);
static REVERT: Script = script!("revert" = "grant_codec" "keys" "entries" "queue" "leave_queue" "tombstone" "revert");

/// The state in which a reverted attempt was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reverted {
    /// It had the lock: the fence, and the latest expiry that its journal row can have in ms
    /// since 1970, 0 without a row.
    Released(FencingToken, u64),
    /// It had a queue entry.
    Dequeued,
    Absent,
}

impl Locks {
    /// Claims the lock for a waiting attempt if it was handed over to it, and otherwise
    /// returns the attempt's progress. With `is_over` the attempt leaves the queue.
    ///
    /// # Errors
    /// The store returned no answer in time.
    pub async fn claim(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        is_over: bool,
    ) -> Result<AcquireProgress, LocksError> {
        match self.store.is_sharded() {
            true => Box::pin(self.claim_across_shards(request, attempt, is_over)).await,
            false => self.claim_in_shard(request, attempt, is_over).await,
        }
    }

    /// Does the same with the quotas of the lock's shard in the request.
    pub(in crate::locks) async fn claim_in_shard(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        is_over: bool,
    ) -> Result<AcquireProgress, LocksError> {
        let account = request.claimant.account.key_text();
        let lock_key = request.lock.lock_key();
        let shard = self.store.shard_of(&lock_key);
        let deadline = self.deadline(shard)?;
        let epoch = self.epoch_for(shard);
        let keys = Keys::new(&self.store, &lock_key, account.as_str(), &RateCharge::Done);
        let mut args = ScriptArgs::new();
        args.write(|text| request.claimant.write_holder_prefix(text))
            .text(&lock_key)
            .number(request.lease.as_ms())
            .text(attempt.key_text().as_str())
            .number(deadline.us)
            .number(request.held_max)
            .write(|text| request.write_metadata(text))
            .text(if is_over { "1" } else { "" })
            .number(self.store.epoch_us(shard))
            .text(if self.is_long(request.lease) { "1" } else { "" });
        let reply = deadline.settled(self.store.eval_replicated(&CLAIM, &keys.slices(), &args.slices()).await).await?;
        Self::count("claim", &reply);
        if reply.status() == "busy" {
            return Box::pin(self.claim_in_shard(request, attempt, is_over)).await;
        }
        let progress = read_progress(&reply, 1, request.lease)?;
        if let AcquireProgress::Done(AcquireOutcome::Granted(grant) | AcquireOutcome::Again(grant)) = &progress {
            self.store.record_fence(shard, grant.fence.as_u64());
            if let Some(change) = Change::read(&reply, 3)? {
                let of = (&request.lock, &request.claimant);
                Box::pin(self.journal_grant(epoch.as_ref(), of, grant, change)).await?;
            }
            self.history_buffer.granted(request, &lock_key, grant);
        }
        Ok(progress)
    }

    /// Reverts one attempt, whatever its progress, and no other. An owner's queue position
    /// stays reserved for a while.
    ///
    /// # Errors
    /// The store returned no answer in time.
    pub async fn revert(&self, lock: &LockKey, claimant: &Claimant, attempt: Attempt) -> Result<Reverted, LocksError> {
        let account = claimant.account.key_text();
        let lock_key = lock.lock_key();
        let keys = Keys::new(&self.store, &lock_key, account.as_str(), &RateCharge::Done);
        let mut args = ScriptArgs::new();
        args.write(|text| claimant.write_holder_prefix(text)).text(&lock_key).text(attempt.key_text().as_str());
        let reply = self.store.eval(&REVERT, &keys.slices(), &args.slices()).await?;
        match reply.status() {
            "released" => Ok(Reverted::Released(reply.word(1)?, reply.word(2)?)),
            "left" => Ok(Reverted::Dequeued),
            "absent" => Ok(Reverted::Absent),
            "unsettled" => Err(LocksError::Unsettled),
            _ => Err(reply.bad().into()),
        }
    }
}
