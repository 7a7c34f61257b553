//! The journal: SQL records grants of long leases before the server answers, so that a
//! recovery need not wait for their expiry. It follows the store: the script numbers every
//! change of such a grant, the row keeps the change with the largest number, and no change
//! is recorded after the end.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use super::{
    Claimant, LockKey, Locks, LocksError,
    grant_codec::{fence_of, full_form, seq_of},
    keys::{ended_key, grant_key, held_key},
    requests::{Keys, script},
    script_args::ScriptArgs,
};
use crate::{
    lock::{
        AccountId, EndedGrant, Epoch, EpochStart, FencingToken, Grant, JournalError, JournalRow, Lease, RateCharge,
        WriteOutcome,
    },
    safeguards::{self, Safeguard},
    store::{BadReply, Reply, Script, Shard, StoreMatch},
};

static SHORTEN: Script = script!("shorten" = "grant_codec" "shorten");
static SETTLE_END: Script = script!("settle_end" = "grant_codec" "keys" "tombstone" "entries" "queue" "settle_end");
static LIST_ENDED: Script = script!("list_ended");

/// How often to record missing ends and the last fences.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// How long an answer waits for all of its journal writes.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(2);
/// The number of ended grants that are read per shard and round.
const ENDS_PER_ROUND: u64 = 50;

/// A change of a grant that the journal must record before the server answers.
pub(super) struct Change {
    seq: u64,
    /// The lease gets shorter: the store keeps the longer one until the journal has recorded
    /// the change.
    is_shorter: bool,
    /// The previous fence of a grant that got a new one; the grant with that fence has ended.
    previous_fence: Option<FencingToken>,
    stored_grant: String,
}

impl Change {
    /// Decodes the change after a grant in a reply, from `index` on; `None` for a grant that
    /// is not journaled.
    pub(super) fn read(reply: &Reply, index: usize) -> Result<Option<Self>, BadReply> {
        if reply.texts(index).next().is_none() {
            return Ok(None);
        }
        let previous_fence = Some(reply.text(index + 2)?).filter(|fence| !fence.is_empty());
        Ok(Some(Self {
            seq: reply.word(index)?,
            is_shorter: !reply.text(index + 1)?.is_empty(),
            previous_fence: previous_fence.map(|fence| fence.parse().map_err(|_| reply.bad())).transpose()?,
            stored_grant: reply.text(index + 3)?.to_owned(),
        }))
    }
}

impl Locks {
    /// Whether the journal records grants with this lease.
    pub(super) fn is_long(&self, lease: Lease) -> bool {
        lease > self.journal_above
    }

    /// The current epoch of a shard. Read it before the grant: the journal rejects a grant
    /// that was made under an outdated epoch, as the next store may have read the rows already.
    pub(super) fn epoch_for(&self, shard: Shard) -> Option<Epoch> {
        self.store.recovery_state(shard).borrow().as_ref().map(|recovery| recovery.epoch.clone())
    }

    /// Records a grant, or its renewal by an acquire of the same owner. Box the future: it
    /// would add its size to every request, and most leases are short.
    pub(super) async fn journal_grant(
        &self,
        epoch: Option<&Epoch>,
        (lock, claimant): (&LockKey, &Claimant),
        grant: &Grant,
        change: Change,
    ) -> Result<(), LocksError> {
        match self.write_change(epoch, (lock, claimant), grant, change).await? {
            WriteOutcome::Recorded => Ok(()),
            WriteOutcome::Outdated => {
                Err(JournalError::Unavailable("another renewal was recorded first".into()).into())
            }
            WriteOutcome::Ended => Err(JournalError::Ended.into()),
        }
    }

    /// Records a renewal. If that fails, cuts the confirmed lease to the longest one that
    /// needs no row; the longer lease in the store is harmless. Returns whether the grant is
    /// still held.
    pub(super) async fn journal_renewal(
        &self,
        epoch: Option<&Epoch>,
        (lock, claimant): (&LockKey, &Claimant),
        grant: &mut Grant,
        change: Change,
    ) -> bool {
        let error = match self.write_change(epoch, (lock, claimant), grant, change).await {
            Ok(WriteOutcome::Recorded) => return true,
            Ok(WriteOutcome::Ended) => return false,
            Ok(WriteOutcome::Outdated) => JournalError::Unavailable("another renewal was recorded first".into()),
            Err(error) => error,
        };
        if self.is_long(grant.lease) {
            tracing::debug!(%error, "cannot record the renewal of a long lease; confirming a short one");
            let renewed_ms = (grant.expires_at.as_millisecond() as u64).saturating_sub(grant.lease.as_ms());
            let promised = Timestamp::from_millisecond((renewed_ms + self.journal_above.as_ms()) as i64);
            grant.lease = self.journal_above;
            grant.expires_at = promised.unwrap_or(grant.expires_at);
        }
        true
    }

    async fn write_change(
        &self,
        epoch: Option<&Epoch>,
        (lock, claimant): (&LockKey, &Claimant),
        grant: &Grant,
        change: Change,
    ) -> Result<WriteOutcome, JournalError> {
        let epoch = epoch.ok_or_else(|| JournalError::Unavailable("the epoch of the store is not known yet".into()))?;
        let lock_key = lock.lock_key();
        let shard = self.store.shard_of(&lock_key);
        let (fence, expires_ms) = (grant.fence, grant.expires_at.as_millisecond() as u64);
        let row =
            JournalRow { lock_key, fence, seq: change.seq, expires_ms, stored_grant: full_form(&change.stored_grant) };
        let written = timeout(JOURNAL_TIMEOUT, self.write_row(epoch, shard, &row, change.previous_fence)).await;
        let written = written.unwrap_or_else(|_| Err(JournalError::Unavailable("the journal took too long".into())))?;
        if change.is_shorter
            && written == WriteOutcome::Recorded
            && let Err(error) = self.shorten(shard, claimant, &row).await
        {
            tracing::debug!(%error, "cannot shorten a lease in the store; the store keeps the longer lease");
        }
        Ok(written)
    }

    async fn write_row(
        &self,
        epoch: &Epoch,
        shard: Shard,
        row: &JournalRow,
        previous_fence: Option<FencingToken>,
    ) -> Result<WriteOutcome, JournalError> {
        let written = match self.journal.write(epoch, row).await {
            // A database restored from a backup has an earlier epoch.
            Err(JournalError::Superseded) => {
                let entered = self.journal.begin_epoch(epoch, self.journal_above.as_duration()).await?;
                if let EpochStart::Behind { .. } | EpochStart::OtherStore = entered {
                    return Err(JournalError::Superseded);
                }
                self.journal.write(epoch, row).await?
            }
            written => written?,
        };
        if let Some(fence) = previous_fence {
            let ended = EndedGrant { tag: shard.tag, lock_key: row.lock_key.clone(), fence, until_ms: row.expires_ms };
            self.journal.end(&ended, self.now_ms(shard)).await?;
        }
        Ok(written)
    }

    /// Shortens a lease in the store after the journal has recorded it. Without an answer the
    /// longer lease, which was confirmed before, may stay. The deadline keeps a delayed
    /// command from shortening a lease that a later heartbeat confirmed.
    async fn shorten(&self, shard: Shard, claimant: &Claimant, row: &JournalRow) -> Result<(), LocksError> {
        let deadline = self.deadline(shard)?;
        let held = held_key(&self.store, shard, claimant.account.key_text().as_str());
        let keys = [grant_key(&self.store, &row.lock_key), held];
        let mut args = ScriptArgs::new();
        args.write(|text| claimant.write_holder_prefix(text))
            .text(&row.lock_key)
            .number(row.fence.as_u64())
            .number(row.seq)
            .number(row.expires_ms)
            .number(deadline.us);
        deadline.settled(self.store.eval(&SHORTEN, &[&keys[0], &keys[1]], &args.slices()).await).await?;
        Ok(())
    }

    /// Records the end of a grant in the background. If that fails, a server retries it from
    /// the store's list of ended grants. An `until_ms` of 0 means that there is no row.
    pub(super) fn journal_end_in_background(
        &self,
        account: AccountId,
        lock_key: String,
        fence: FencingToken,
        until_ms: u64,
    ) {
        if until_ms == 0 {
            return;
        }
        let locks = self.clone();
        let ending = async move {
            let Ok(_permit) = locks.revert_permits.try_acquire() else { return };
            if let Err(error) = locks.journal_end(account, lock_key, fence, until_ms).await {
                tracing::debug!(%error, "cannot record the end of a grant yet");
            }
        };
        self.background_tasks.spawn(self.store.on_process(ending));
    }

    /// Records the end of a grant in the journal, then opens its lock: a broken grant keeps
    /// it closed until then, and a recovery may have restored an ended grant.
    pub(super) async fn journal_end(
        &self,
        account: AccountId,
        lock_key: String,
        fence: FencingToken,
        until_ms: u64,
    ) -> Result<(), LocksError> {
        let shard = self.store.shard_of(&lock_key);
        let ended = EndedGrant { tag: shard.tag, lock_key, fence, until_ms };
        self.journal.end(&ended, self.now_ms(shard)).await?;
        let account = account.key_text();
        let keys = Keys::new(&self.store, &ended.lock_key, account.as_str(), &RateCharge::Done);
        let args = [&*ended.lock_key, &fence.to_string(), account.as_str(), &until_ms.to_string()];
        self.store.eval(&SETTLE_END, &keys.slices(), &args).await?;
        Ok(())
    }

    /// Periodically records ends of grants that no server has recorded, and the last fences.
    pub(super) async fn sync_journal_forever(&self) {
        let shards = self.store.shards();
        let mut seen: Vec<(Vec<(String, u64)>, u64)> = shards.iter().map(|_| Default::default()).collect();
        loop {
            sleep(SYNC_INTERVAL).await;
            for (shard, (earlier, recorded)) in shards.iter().zip(&mut seen) {
                if !self.store.is_connected(*shard) || self.store.store_match(*shard) != StoreMatch::Named {
                    continue;
                }
                if safeguards::is_on(Safeguard::EndSurvives) {
                    match self.journal_ends(*shard, earlier).await {
                        Ok(ends) => *earlier = ends,
                        Err(error) => tracing::debug!(%error, "cannot record ended grants yet"),
                    }
                }
                let fence = self.store.last_fence(*shard);
                if safeguards::is_on(Safeguard::FenceFloor)
                    && fence > *recorded
                    && self.journal.record_last_fence(shard.tag, fence).await.is_ok()
                {
                    *recorded = fence;
                }
            }
        }
    }

    /// Records the ends that are listed for the second round in a row: the server that ended
    /// the grant may still be recording newer ones. Returns all listed ends.
    async fn journal_ends(&self, shard: Shard, earlier: &[(String, u64)]) -> Result<Vec<(String, u64)>, LocksError> {
        let key = ended_key(&self.store, shard);
        let reply = self.store.eval(&LIST_ENDED, &[&key], &[&ENDS_PER_ROUND.to_string()]).await?;
        let mut ends = Vec::new();
        for at in (1..=reply.texts(1).count()).step_by(2) {
            ends.push((reply.text(at + 1)?.to_owned(), reply.word(at)?));
        }
        for (entry, until_ms) in ends.iter().filter(|end| earlier.contains(end)) {
            let mut fields = entry.splitn(3, ' ');
            let mut field = || fields.next().unwrap_or_default();
            let (fence, account, lock_key) = (field().parse(), field().parse(), field().to_owned());
            let (Ok(fence), Ok(account)) = (fence, account) else { continue };
            self.journal_end(account, lock_key, fence, *until_ms).await?;
        }
        Ok(ends)
    }

    /// The estimated time of the store in milliseconds since 1970; 0 if unknown.
    pub(super) fn now_ms(&self, shard: Shard) -> u64 {
        self.store.now_us(shard).unwrap_or_default() / 1000
    }
}

/// The journal row of a stored grant; `None` for a grant that was never claimed.
pub(super) fn journal_row(lock_key: &str, expires_ms: u64, stored_grant: &str) -> Option<JournalRow> {
    let fence = fence_of(stored_grant)?;
    Some(JournalRow {
        lock_key: lock_key.to_owned(),
        fence,
        seq: seq_of(stored_grant),
        expires_ms,
        stored_grant: full_form(stored_grant),
    })
}
