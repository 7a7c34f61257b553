use std::time::Duration;

use super::{
    Ending, Locks, LocksError,
    grant_codec::read_held,
    keys::bucket_key,
    list::Looked,
    requests::{Answer, BreakRequest, Claimant, Keys, LockId, rate_args, read_standing, script},
};
use crate::{
    lock::{AccountId, BreakOutcome, FencingToken, NotHeld, Payment, Standing},
    store::Script,
};

static INSPECT: Script = script!("inspect");
static BREAK: Script = script!("break" = "grant_codec" "keys" "entries" "queue" "tombstone" "break");

impl Locks {
    /// Says who holds a lock, how many wait for it, and where among them the owner
    /// stands that `asking` names.
    ///
    /// # Errors
    /// When the store gave no answer in time.
    pub async fn inspect(
        &self,
        lock: &LockId,
        asking: Option<&Claimant>,
        payment: &Payment,
    ) -> Result<Answer<Looked<Standing>>, LocksError> {
        let lock_key = lock.to_string();
        let keys = Keys::new(&self.store, &lock_key, "-", payment);
        let [interval_us, burst_us] = rate_args(payment);
        let bucket = bucket_key(&self.store, self.store.shard_of(&lock_key), payment);
        let keys = [keys.lock(), keys.line(), &bucket, keys.tickets(), keys.kept()];
        let ticket = asking.map(|asking| format!("{}\n{}\n", asking.account, asking.owner_text())).unwrap_or_default();
        let reply = self.store.run(&INSPECT, &keys, &[&interval_us, &burst_us, &ticket]).await?;
        let position = |index| Ok::<_, LocksError>(Some(reply.word(index)?).filter(|position| *position > 0));
        let outcome = match reply.status() {
            "held" => Looked::Found(Standing {
                held: Some(read_held(&reply, 2)?),
                waiting: reply.word(5)?,
                position: position(6)?,
            }),
            "free" => Looked::Found(Standing { held: None, waiting: reply.word(2)?, position: position(3)? }),
            "rate_limited" => Looked::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
            _ => return Err(reply.bad().into()),
        };
        Ok(Answer { outcome, standing: read_standing(&reply, payment)? })
    }

    /// Breaks one grant of an account, whoever of it holds the lock; the first
    /// in line has it then. A grant with a journal row is broken once the journal has
    /// recorded that: until then nobody else is granted the lock.
    ///
    /// # Errors
    /// When the store or the journal gave no answer in time; the grant may be broken
    /// then.
    pub async fn break_grant(&self, request: &BreakRequest) -> Result<BreakOutcome, LocksError> {
        let (broken, end) = self.begin_break(request).await?;
        if let Some(end) = end {
            self.finish_break(end).await?;
        }
        Ok(broken)
    }

    /// The same, but for what the journal is to record: until [`finish_break`](Self::finish_break)
    /// has had that done, the lock stays closed to everybody.
    ///
    /// # Errors
    /// When the store gave no answer in time; the grant may be broken then.
    pub async fn begin_break(
        &self,
        request: &BreakRequest,
    ) -> Result<(BreakOutcome, Option<UnrecordedEnd>), LocksError> {
        let account = request.account.to_string();
        let lock_key = request.lock.to_string();
        let shard = self.store.shard_of(&lock_key);
        let deadline = self.deadline(shard)?;
        let keys = Keys::new(&self.store, &lock_key, &account, &Payment::Paid);
        let args = [&*account, &lock_key, &request.fence.to_string(), &deadline.us.to_string()];
        let reply = deadline.settled(self.store.run(&BREAK, &keys.slices(), &args).await).await?;
        Self::count("break", &reply);
        if reply.status() == "broken" {
            self.recorder.ended(request.account, &lock_key, request.fence, (self.now_ms(shard), Ending::Broken));
            let until_ms = reply.word(1)?;
            let end = UnrecordedEnd { account: request.account, lock_key, fence: request.fence, until_ms };
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

    /// Has the journal record that a grant was broken, and frees its lock.
    ///
    /// # Errors
    /// When the journal or the store gave no answer in time; some server tries again
    /// after a while.
    pub async fn finish_break(&self, end: UnrecordedEnd) -> Result<(), LocksError> {
        self.end(end.account, end.lock_key, end.fence, end.until_ms).await
    }
}

/// A grant that was broken, which the journal has yet to record.
pub struct UnrecordedEnd {
    account: AccountId,
    lock_key: String,
    fence: FencingToken,
    until_ms: u64,
}
