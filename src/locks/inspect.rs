use std::time::Duration;

use super::{
    GrantEnd, Locks, LocksError,
    grant_codec::read_held,
    keys::bucket_key,
    list::ReadOutcome,
    requests::{BreakRequest, Claimant, Keys, LockKey, WithRate, rate_args, read_rate_status, script},
};
use crate::{
    lock::{AccountId, BreakOutcome, FencingToken, LockState, NotHeld, RateCharge},
    store::Script,
};

static INSPECT: Script = script!("inspect");
static BREAK: Script = script!("break" = "grant_codec" "keys" "entries" "queue" "tombstone" "break");

impl Locks {
    /// Reads the state of a lock: its holder, the length of its queue, and the queue position
    /// of the owner `position_of`.
    ///
    /// # Errors
    /// The store returned no answer in time.
    pub async fn inspect(
        &self,
        lock: &LockKey,
        position_of: Option<&Claimant>,
        charge: &RateCharge,
    ) -> Result<WithRate<ReadOutcome<LockState>>, LocksError> {
        let lock_key = lock.to_string();
        let keys = Keys::new(&self.store, &lock_key, "-", charge);
        let [interval_us, burst_us] = rate_args(charge);
        let bucket = bucket_key(&self.store, self.store.shard_of(&lock_key), charge);
        let keys = [keys.lock(), keys.queue(), &bucket, keys.entries(), keys.reserved()];
        let entry = position_of.map(|owner| format!("{}\n{}\n", owner.account, owner.owner_text())).unwrap_or_default();
        let reply = self.store.eval(&INSPECT, &keys, &[&interval_us, &burst_us, &entry]).await?;
        let position = |index| Ok::<_, LocksError>(Some(reply.word(index)?).filter(|position| *position > 0));
        let outcome = match reply.status() {
            "held" => ReadOutcome::Found(LockState {
                held: Some(read_held(&reply, 2)?),
                waiting: reply.word(5)?,
                position: position(6)?,
            }),
            "free" => ReadOutcome::Found(LockState { held: None, waiting: reply.word(2)?, position: position(3)? }),
            "rate_limited" => ReadOutcome::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
            _ => return Err(reply.bad().into()),
        };
        Ok(WithRate { outcome, rate: read_rate_status(&reply, charge)? })
    }

    /// Breaks one grant of an account, of any owner, and hands the lock over to the first
    /// queue entry. If the grant has a journal row, the lock stays closed until the journal
    /// has recorded the end.
    ///
    /// # Errors
    /// The store or the journal returned no answer in time; the grant may be broken.
    pub async fn break_grant(&self, request: &BreakRequest) -> Result<BreakOutcome, LocksError> {
        let (broken, end) = self.begin_break(request).await?;
        if let Some(end) = end {
            self.finish_break(end).await?;
        }
        Ok(broken)
    }

    /// Breaks a grant in the store only. If the grant has a journal row, the lock stays closed
    /// until [`finish_break`](Self::finish_break) has recorded the end.
    ///
    /// # Errors
    /// The store returned no answer in time; the grant may be broken.
    pub async fn begin_break(
        &self,
        request: &BreakRequest,
    ) -> Result<(BreakOutcome, Option<UnjournaledEnd>), LocksError> {
        let account = request.account.to_string();
        let lock_key = request.lock.to_string();
        let shard = self.store.shard_of(&lock_key);
        let deadline = self.deadline(shard)?;
        let keys = Keys::new(&self.store, &lock_key, &account, &RateCharge::Done);
        let args = [&*account, &lock_key, &request.fence.to_string(), &deadline.us.to_string()];
        let reply = deadline.settled(self.store.eval(&BREAK, &keys.slices(), &args).await).await?;
        Self::count("break", &reply);
        if reply.status() == "broken" {
            self.history_buffer.ended(
                request.account,
                &lock_key,
                request.fence,
                (self.now_ms(shard), GrantEnd::Broken),
            );
            let until_ms = reply.word(1)?;
            let end = UnjournaledEnd { account: request.account, lock_key, fence: request.fence, until_ms };
            return Ok((BreakOutcome::Broken, (until_ms > 0).then_some(end)));
        }
        let broken = match reply.status() {
            "not_held" => BreakOutcome::Refused(NotHeld::Free),
            "held_by_another" => BreakOutcome::Refused(NotHeld::HeldByAnother),
            "unsettled" => return Err(LocksError::Unsettled),
            "late" => return Err(LocksError::TooLate),
            _ => return Err(reply.bad().into()),
        };
        Ok((broken, None))
    }

    /// Records in the journal that a grant was broken, and opens its lock.
    ///
    /// # Errors
    /// The journal or the store returned no answer in time; a server retries later.
    pub async fn finish_break(&self, end: UnjournaledEnd) -> Result<(), LocksError> {
        self.journal_end(end.account, end.lock_key, end.fence, end.until_ms).await
    }
}

/// A broken grant whose end the journal has not recorded yet.
pub struct UnjournaledEnd {
    account: AccountId,
    lock_key: String,
    fence: FencingToken,
    until_ms: u64,
}
