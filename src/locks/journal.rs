//! Grants of long leases are written down before they are answered, so that a
//! recovery need not wait for them to lapse.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use super::{
    AcquireRequest, Locks,
    stored::{fence_of, in_full},
};
use crate::{
    keyspace::Shard,
    lock::{Entered, Era, Fence, Grant, Lease, LedgerError, LongGrant},
};

/// How long to pause before the ledger is tried again.
const PAUSE: Duration = Duration::from_secs(5);

impl Locks {
    /// Whether such a lease is written down.
    pub(super) fn is_long(&self, lease: Lease) -> bool {
        lease > self.short
    }

    /// The era of a shard in which a lease that is to be written down is granted: to be asked
    /// for before it is. One that is granted in another is not written, lest the
    /// next keyspace does not hear of it.
    pub(super) fn era_for(&self, shard: Shard, lease: Lease) -> Option<Era> {
        if !self.is_long(lease) {
            return None;
        }
        self.keyspace.standing(shard).borrow().as_ref().map(|standing| standing.era.clone())
    }

    /// Writes a grant of a long lease down that was made for a request. It is to be
    /// boxed: its room would be taken in every request, most of which ask for short
    /// ones.
    pub(super) async fn write_granted(
        &self,
        era: Option<&Era>,
        request: &AcquireRequest,
        grant: &Grant,
    ) -> Result<(), LedgerError> {
        let expires_ms = grant.expires_at.as_millisecond() as u64;
        let mut record = String::new();
        request.claimant.write_head(&mut record);
        let acquired_ms = expires_ms.saturating_sub(grant.lease.as_ms());
        for part in [&*grant.fence.to_string(), "\n\n", &acquired_ms.to_string(), "\n"] {
            record.push_str(part);
        }
        request.write_about(&mut record);
        let place = request.lock.to_string();
        self.write_down(era, LongGrant { place, fence: grant.fence, expires_ms, record: in_full(&record) }).await
    }

    /// Writes a renewal down. One that cannot be written is promised for no longer
    /// than a lease that need not be; what the keyspace has lasts longer, and
    /// harms nobody.
    pub(super) async fn write_renewed(&self, era: Option<&Era>, place: String, grant: &mut Grant, record: &str) {
        let expires_ms = grant.expires_at.as_millisecond() as u64;
        let written = LongGrant { place, fence: grant.fence, expires_ms, record: in_full(record) };
        if let Err(error) = self.write_down(era, written).await {
            tracing::debug!(%error, "a long lease is renewed for a short time alone");
            let renewed_ms = expires_ms.saturating_sub(grant.lease.as_ms());
            let promised = Timestamp::from_millisecond((renewed_ms + self.short.as_ms()) as i64);
            grant.lease = self.short;
            grant.expires_at = promised.unwrap_or(grant.expires_at);
        }
    }

    async fn write_down(&self, era: Option<&Era>, grant: LongGrant) -> Result<(), LedgerError> {
        let era = era.ok_or_else(|| LedgerError::Away("the keyspace is not known yet".into()))?;
        match self.ledger.write(era, &grant).await {
            // A database that was put back from a backup knows an era before.
            Err(LedgerError::Superseded) => {
                if let Entered::Behind { .. } = self.ledger.enter(era, self.short.as_duration()).await? {
                    return Err(LedgerError::Superseded);
                }
                self.ledger.write(era, &grant).await
            }
            written => written,
        }
    }

    /// Strikes a grant out that has ended before its lease, which would have gone
    /// on for `rest`. Nobody waits for that: what still stands there after a loss
    /// keeps a lock from others that is free, no worse.
    pub(super) fn strike(&self, place: String, fence: Fence, rest: Duration) {
        if rest <= self.short.as_duration() {
            return;
        }
        let locks = self.clone();
        self.undo_tasks.spawn(async move {
            let Ok(_place) = locks.undoings.try_acquire() else {
                tracing::warn!("too much is to be struck out of the ledger: a released lock is left in it");
                return;
            };
            let tries = async {
                while let Err(error) = locks.ledger.strike(&place, fence).await {
                    tracing::debug!(%error, "a released lock could not be struck out of the ledger yet");
                    sleep(PAUSE).await;
                }
            };
            let _ = timeout(rest, tries).await;
        });
    }
}

/// A grant as the keyspace has it, in the form in which it is written down; none
/// for one that was never collected.
pub(super) fn long_grant(place: &str, expires_ms: u64, record: &str) -> Option<LongGrant> {
    let fence = fence_of(record)?;
    Some(LongGrant { place: place.to_owned(), fence, expires_ms, record: in_full(record) })
}
