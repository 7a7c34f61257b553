//! The journal: grants of long leases are recorded in SQL before they are answered,
//! so that a recovery need not wait for them to lapse. It follows the store: every
//! change of such a grant has a number that the script gives it, the row with the
//! largest number stays, and none follows the end.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use super::{
    Claimant, LockId, Locks, LocksError,
    grant_codec::{fence_of, in_full, seq_of},
    keys::{ended_key, grant_key, held_key},
    requests::{Keys, script},
    script_args::Words,
};
use crate::{
    lock::{
        AccountId, EndedGrant, Entered, Epoch, FencingToken, Grant, JournalError, JournalRow, Lease, Payment, Written,
    },
    mends::{self, Mend},
    store::{BadReply, Belonging, Reply, Script, Shard},
};

static SHORTEN: Script = script!("shorten" = "grant_codec" "shorten");
static SETTLE_END: Script = script!("settle_end" = "grant_codec" "keys" "tombstone" "entries" "queue" "settle_end");
static LIST_ENDED: Script = script!("list_ended");

/// How often to look for ends that the journal has not recorded, and for fences.
const ROUND: Duration = Duration::from_secs(5);
/// How long an answer waits for the journal, whatever has to be asked of it.
const RECORDED_WITHIN: Duration = Duration::from_secs(2);
/// How many ends of a shard are looked at in a round.
const ENDS_A_ROUND: u64 = 50;

/// What a script wants recorded of a grant before it is answered.
pub(super) struct Change {
    seq: u64,
    /// The store keeps the longer lease until the journal has the shorter one.
    is_shorter: bool,
    /// The grant's fence before it was fenced anew: that one has ended.
    former: Option<FencingToken>,
    record: String,
}

impl Change {
    /// Reads what stands behind a grant in a reply, beginning at `index`; nothing for
    /// a grant that the journal does not know.
    pub(super) fn read(reply: &Reply, index: usize) -> Result<Option<Self>, BadReply> {
        if reply.texts(index).next().is_none() {
            return Ok(None);
        }
        let former = Some(reply.text(index + 2)?).filter(|former| !former.is_empty());
        Ok(Some(Self {
            seq: reply.word(index)?,
            is_shorter: !reply.text(index + 1)?.is_empty(),
            former: former.map(|former| former.parse().map_err(|_| reply.bad())).transpose()?,
            record: reply.text(index + 3)?.to_owned(),
        }))
    }
}

impl Locks {
    /// Whether the journal is to know of such a lease.
    pub(super) fn is_long(&self, lease: Lease) -> bool {
        lease > self.short
    }

    /// The epoch of a shard in which a lease is granted that is to be recorded: to be
    /// asked for before it is. A grant of another epoch is not recorded: the next
    /// store may have read the journal already.
    pub(super) fn era_for(&self, shard: Shard) -> Option<Epoch> {
        self.store.standing(shard).borrow().as_ref().map(|standing| standing.epoch.clone())
    }

    /// Records a grant, or its renewal by the same owner. It is to be boxed: its room
    /// would be taken in every request, most of which ask for short leases.
    pub(super) async fn record_grant(
        &self,
        epoch: Option<&Epoch>,
        (lock, claimant): (&LockId, &Claimant),
        grant: &Grant,
        change: Change,
    ) -> Result<(), LocksError> {
        match self.record(epoch, (lock, claimant), grant, change).await? {
            Written::Recorded => Ok(()),
            Written::Outdated => Err(JournalError::Away("another renewal was recorded first".into()).into()),
            Written::Ended => Err(JournalError::Ended.into()),
        }
    }

    /// Records a renewal. One that cannot be recorded is promised for no longer than a
    /// lease that need not be; the longer one in the store harms nobody. Returns
    /// whether the grant is still held.
    pub(super) async fn record_renewal(
        &self,
        epoch: Option<&Epoch>,
        (lock, claimant): (&LockId, &Claimant),
        grant: &mut Grant,
        change: Change,
    ) -> bool {
        let error = match self.record(epoch, (lock, claimant), grant, change).await {
            Ok(Written::Recorded) => return true,
            Ok(Written::Ended) => return false,
            Ok(Written::Outdated) => JournalError::Away("another renewal was recorded first".into()),
            Err(error) => error,
        };
        if self.is_long(grant.lease) {
            tracing::debug!(%error, "a long lease is renewed for a short time alone");
            let renewed_ms = (grant.expires_at.as_millisecond() as u64).saturating_sub(grant.lease.as_ms());
            let promised = Timestamp::from_millisecond((renewed_ms + self.short.as_ms()) as i64);
            grant.lease = self.short;
            grant.expires_at = promised.unwrap_or(grant.expires_at);
        }
        true
    }

    async fn record(
        &self,
        epoch: Option<&Epoch>,
        (lock, claimant): (&LockId, &Claimant),
        grant: &Grant,
        change: Change,
    ) -> Result<Written, JournalError> {
        let epoch = epoch.ok_or_else(|| JournalError::Away("the store is not known yet".into()))?;
        let lock_key = lock.lock_key();
        let shard = self.store.shard_of(&lock_key);
        let (fence, expires_ms) = (grant.fence, grant.expires_at.as_millisecond() as u64);
        let row = JournalRow { lock_key, fence, seq: change.seq, expires_ms, record: in_full(&change.record) };
        let written = timeout(RECORDED_WITHIN, self.write_row(epoch, shard, &row, change.former)).await;
        let written = written.unwrap_or_else(|_| Err(JournalError::Away("the journal took too long".into())))?;
        if change.is_shorter
            && written == Written::Recorded
            && let Err(error) = self.shorten(shard, claimant, &row).await
        {
            tracing::debug!(%error, "a lease stays longer in the store than it was asked for");
        }
        Ok(written)
    }

    async fn write_row(
        &self,
        epoch: &Epoch,
        shard: Shard,
        row: &JournalRow,
        former: Option<FencingToken>,
    ) -> Result<Written, JournalError> {
        let written = match self.journal.write(epoch, row).await {
            // A database that was restored from a backup knows an earlier epoch.
            Err(JournalError::Superseded) => {
                let entered = self.journal.enter(epoch, self.short.as_duration()).await?;
                if let Entered::Behind { .. } | Entered::Elsewhere = entered {
                    return Err(JournalError::Superseded);
                }
                self.journal.write(epoch, row).await?
            }
            written => written?,
        };
        if let Some(fence) = former {
            let former = EndedGrant { tag: shard.tag, lock_key: row.lock_key.clone(), fence, until_ms: row.expires_ms };
            self.journal.end(&former, self.now_ms(shard)).await?;
        }
        Ok(written)
    }

    /// Shortens the lease in the store, which the journal has recorded. If the store gives
    /// no answer the longer lease may stay, which was confirmed before; the command is not
    /// carried out after this, when another heartbeat may have been confirmed.
    async fn shorten(&self, shard: Shard, claimant: &Claimant, row: &JournalRow) -> Result<(), LocksError> {
        let deadline = self.deadline(shard)?;
        let held = held_key(&self.store, shard, claimant.account.key_text().as_str());
        let keys = [grant_key(&self.store, &row.lock_key), held];
        let mut args = Words::new();
        args.write(|text| claimant.write_head(text))
            .text(&row.lock_key)
            .number(row.fence.as_u64())
            .number(row.seq)
            .number(row.expires_ms)
            .number(deadline.us);
        deadline.settled(self.store.run(&SHORTEN, &[&keys[0], &keys[1]], &args.slices()).await).await?;
        Ok(())
    }

    /// Records that a grant has ended, in the background. If that fails, some server
    /// finds the grant among the ended ones in the store and tries again.
    pub(super) fn end_in_background(&self, account: AccountId, lock_key: String, fence: FencingToken, until_ms: u64) {
        if until_ms == 0 {
            return;
        }
        let locks = self.clone();
        let ending = async move {
            let Ok(_permit) = locks.undoings.try_acquire() else { return };
            if let Err(error) = locks.end(account, lock_key, fence, until_ms).await {
                tracing::debug!(%error, "the end of a grant could not be recorded yet");
            }
        };
        self.undo_tasks.spawn(self.store.on_process(ending));
    }

    /// Records that a grant has ended; then its lock is free, also if the grant was broken,
    /// or restored by a recovery that had not heard of the end.
    pub(super) async fn end(
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
        let keys = Keys::new(&self.store, &ended.lock_key, account.as_str(), &Payment::Paid);
        let args = [&*ended.lock_key, &fence.to_string(), account.as_str(), &until_ms.to_string()];
        self.store.run(&SETTLE_END, &keys.slices(), &args).await?;
        Ok(())
    }

    /// Records what other servers have not: ends of grants, and how far fences have
    /// risen.
    pub(super) async fn follow_store(&self) {
        let shards = self.store.shards();
        let mut seen: Vec<(Vec<(String, u64)>, u64)> = shards.iter().map(|_| Default::default()).collect();
        loop {
            sleep(ROUND).await;
            for (shard, (earlier, noted)) in shards.iter().zip(&mut seen) {
                if !self.store.is_there(*shard) || self.store.belonging(*shard) != Belonging::Ours {
                    continue;
                }
                if mends::is_on(Mend::EndSurvives) {
                    match self.record_ends(*shard, earlier).await {
                        Ok(ends) => *earlier = ends,
                        Err(error) => tracing::debug!(%error, "ends of grants could not be recorded yet"),
                    }
                }
                let fence = self.store.last_fence(*shard);
                if mends::is_on(Mend::FenceFloor)
                    && fence > *noted
                    && self.journal.note_fence(shard.tag, fence).await.is_ok()
                {
                    *noted = fence;
                }
            }
        }
    }

    /// Records the ends that were found in the round before, too: younger ones are
    /// under way in the server that ended them. Returns all that are there.
    async fn record_ends(&self, shard: Shard, earlier: &[(String, u64)]) -> Result<Vec<(String, u64)>, LocksError> {
        let key = ended_key(&self.store, shard);
        let reply = self.store.run(&LIST_ENDED, &[&key], &[&ENDS_A_ROUND.to_string()]).await?;
        let mut ends = Vec::new();
        for at in (1..=reply.texts(1).count()).step_by(2) {
            ends.push((reply.text(at + 1)?.to_owned(), reply.word(at)?));
        }
        for (entry, until_ms) in ends.iter().filter(|end| earlier.contains(end)) {
            let mut fields = entry.splitn(3, ' ');
            let mut field = || fields.next().unwrap_or_default();
            let (fence, account, lock_key) = (field().parse(), field().parse(), field().to_owned());
            let (Ok(fence), Ok(account)) = (fence, account) else { continue };
            self.end(account, lock_key, fence, *until_ms).await?;
        }
        Ok(ends)
    }

    /// The store's time in milliseconds since 1970, as far as is known.
    pub(super) fn now_ms(&self, shard: Shard) -> u64 {
        self.store.now_us(shard).unwrap_or_default() / 1000
    }
}

/// A grant as the store has it, in the form in which the journal has it; none for one
/// that was never collected.
pub(super) fn row_of(lock_key: &str, expires_ms: u64, record: &str) -> Option<JournalRow> {
    let fence = fence_of(record)?;
    Some(JournalRow { lock_key: lock_key.to_owned(), fence, seq: seq_of(record), expires_ms, record: in_full(record) })
}
