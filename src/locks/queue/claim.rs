use crate::locks::{
    Locks, LocksError, Turn,
    acquire::read_turn,
    journal::Change,
    requests::{AcquireRequest, Claimant, Keys, LockId, script},
    script_args::Words,
};
use crate::{
    lock::{AcquireOutcome, Attempt, FencingToken, Payment},
    store::Script,
};

static COLLECT: Script = script!(
    "claim" = "grant_codec" "keys" "grant" "tombstone" "regrant" "claim_again" "entries" "queue" "positions" "leave_queue" "claim"
);
static WITHDRAW: Script = script!("revert" = "grant_codec" "keys" "entries" "queue" "leave_queue" "tombstone" "revert");

/// What there was of an attempt that was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// The lock, under this fence; with the latest expiry in its journal row, 0 without
    /// one.
    Released(FencingToken, u64),
    /// A lock key in line.
    Left,
    Absent,
}

impl Locks {
    /// Asks how an attempt stands that waits, and takes the lock if it was
    /// handed to it. When the wait `is_over`, the attempt leaves the line.
    ///
    /// # Errors
    /// When the store gave no answer in time.
    pub async fn collect(&self, request: &AcquireRequest, attempt: Attempt, is_over: bool) -> Result<Turn, LocksError> {
        match self.store.is_spread() {
            true => Box::pin(self.collect_spread(request, attempt, is_over)).await,
            false => self.collect_once(request, attempt, is_over).await,
        }
    }

    /// The same, where the quotas in the request are those of the lock's shard.
    pub(in crate::locks) async fn collect_once(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        is_over: bool,
    ) -> Result<Turn, LocksError> {
        let account = request.claimant.account.key_text();
        let lock_key = request.lock.lock_key();
        let shard = self.store.shard_of(&lock_key);
        let deadline = self.deadline(shard)?;
        let epoch = self.era_for(shard);
        let keys = Keys::new(&self.store, &lock_key, account.as_str(), &Payment::Paid);
        let mut args = Words::new();
        args.write(|text| request.claimant.write_head(text))
            .text(&lock_key)
            .number(request.lease.as_ms())
            .text(attempt.key_text().as_str())
            .number(deadline.us)
            .number(request.held_max)
            .write(|text| request.write_about(text))
            .text(if is_over { "1" } else { "" })
            .number(self.store.epoch_us(shard))
            .text(if self.is_long(request.lease) { "1" } else { "" });
        let reply = deadline.settled(self.store.run_replicated(&COLLECT, &keys.slices(), &args.slices()).await).await?;
        Self::count("collect", &reply);
        if reply.status() == "busy" {
            return Box::pin(self.collect_once(request, attempt, is_over)).await;
        }
        let turn = read_turn(&reply, 1, request.lease)?;
        if let Turn::Over(AcquireOutcome::Granted(grant) | AcquireOutcome::Again(grant)) = &turn {
            self.store.note_fence(shard, grant.fence.as_u64());
            if let Some(change) = Change::read(&reply, 3)? {
                let of = (&request.lock, &request.claimant);
                Box::pin(self.record_grant(epoch.as_ref(), of, grant, change)).await?;
            }
            self.recorder.granted(request, &lock_key, grant);
        }
        Ok(turn)
    }

    /// Takes back one attempt, however far it came and however late: no other is
    /// touched. The lock key of an owner is kept for a while. Returns what there
    /// was of it.
    ///
    /// # Errors
    /// When the store gave no answer in time.
    pub async fn withdraw(
        &self,
        lock: &LockId,
        claimant: &Claimant,
        attempt: Attempt,
    ) -> Result<Withdrawn, LocksError> {
        let account = claimant.account.key_text();
        let lock_key = lock.lock_key();
        let keys = Keys::new(&self.store, &lock_key, account.as_str(), &Payment::Paid);
        let mut args = Words::new();
        args.write(|text| claimant.write_head(text)).text(&lock_key).text(attempt.key_text().as_str());
        let reply = self.store.run(&WITHDRAW, &keys.slices(), &args.slices()).await?;
        match reply.status() {
            "released" => Ok(Withdrawn::Released(reply.word(1)?, reply.word(2)?)),
            "left" => Ok(Withdrawn::Left),
            "absent" => Ok(Withdrawn::Absent),
            "unsettled" => Err(LocksError::Unsettled),
            _ => Err(reply.bad().into()),
        }
    }
}
