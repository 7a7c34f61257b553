//! Recovery after the store may have lost grants: nothing is granted until the grants of long
//! leases are restored from the journal and all others have expired.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all, stream};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    LockKey, Locks, LocksError,
    grant_codec::mark_held_since,
    journal::journal_row,
    keys::{clock_key, ended_key, grant_key, held_key, primary_identity_key},
    requests::script,
};
use crate::{
    lock::{Epoch, EpochStart, JournalRow},
    safeguards::{self, Safeguard},
    store::{RecoveryPhase, RecoveryState, Registration, Script, Shard, Store},
};

static RESTORE: Script = script!("restore" = "grant_codec" "restore");
static END_RECOVERY: Script = script!("end_recovery");

impl Locks {
    /// A recovery lasts this much longer than the longest lease that is not journaled: clocks
    /// drift, and holders count a lease from the answer.
    pub const RECOVERY_MARGIN: Duration = Duration::from_secs(5);

    /// The distance from the last recorded fence to the first fence after a recovery: a minute
    /// if the clock is right, and otherwise more fences than can be issued between two records.
    const FENCE_GAP: u64 = 60_000_000;

    /// How long other servers leave a recovery to the server that detected the loss first.
    const YIELD_TO_DETECTOR: Duration = Duration::from_secs(2);
    const RETRY_PAUSE: Duration = Duration::from_secs(1);
    /// How often to delete expired journal rows, and how long after their expiry.
    const SWEEP_INTERVAL: Duration = Duration::from_secs(300);
    const SWEEP_AFTER: Duration = Duration::from_secs(3600);
    /// The number of grants that one script restores.
    const RESTORE_BATCH: usize = 100;
    /// How many shards recover concurrently when the server starts.
    const CONCURRENT_RECOVERIES: usize = 8;

    /// Runs all recoveries, and the loops that keep journal and store consistent.
    pub(super) async fn run_recoveries(&self) {
        let recover_all = join_all(self.store.shards().iter().map(|shard| self.recover_shard_forever(*shard)));
        tokio::join!(
            recover_all,
            self.sweep_journal_forever(),
            self.sync_journal_forever(),
            self.watch_store(),
            self.observe_end_of_recovery()
        );
    }

    /// Observes the end of a recovery in an embedded store, whose state is not polled as that
    /// of Redis is, once a second.
    async fn observe_end_of_recovery(&self) {
        let Store::Embedded(_) = self.store else { return };
        let shard = self.store.shard_of("");
        let mut recovery = self.store.recovery_state(shard);
        let remaining = |recovery: &Option<RecoveryState>| match recovery.as_ref().map(|recovery| recovery.phase) {
            Some(RecoveryPhase::Waiting { until }) => Some(until),
            _ => None,
        };
        loop {
            let Ok(waiting) =
                recovery.wait_for(|recovery| remaining(recovery).is_some()).await.map(|recovery| remaining(&recovery))
            else {
                return;
            };
            // The store rounds to milliseconds.
            sleep_until(waiting.unwrap_or_else(Instant::now) + Duration::from_millis(2)).await;
            if let Err(error) = self.store.register_primary(shard, Registration::Check).await {
                tracing::debug!(%error, "cannot read the recovery state of the store");
            }
        }
    }

    /// The remaining time of the longest recovery; `None` if no shard is known to recover.
    pub fn recovery_remaining(&self) -> Option<Duration> {
        self.store.recovery_remaining()
    }

    /// The end of the recovery of a lock's shard; `None` if the shard is not known to recover.
    pub fn recovering_until(&self, lock: &LockKey) -> Option<Timestamp> {
        Some(Timestamp::now() + self.store.recovery_remaining_in(self.store.shard_of(&lock.lock_key()))?)
    }

    /// The end of the longest recovery.
    pub fn all_recovered_at(&self) -> Option<Timestamp> {
        Some(Timestamp::now() + self.store.recovery_remaining()?)
    }

    /// Checks whether the store may have lost grants, and restores the journaled ones if so.
    ///
    /// # Errors
    /// The store or the journal returned no answer.
    pub async fn recover(&self) -> Result<(), LocksError> {
        let recovering = self.store.shards().iter().copied().map(|shard| self.recover_in(shard));
        let recovered: Vec<_> = stream::iter(recovering).buffer_unordered(Self::CONCURRENT_RECOVERIES).collect().await;
        recovered.into_iter().try_for_each(|recovered| recovered.map(drop))
    }

    /// Does the same for one shard.
    pub(super) async fn recover_in(&self, shard: Shard) -> Result<RecoveryState, LocksError> {
        let mut recovery = self.store.register_primary(shard, Registration::Check).await?;
        let mut entered = self.begin_epoch(shard, &recovery.epoch).await?;
        while let (RecoveryPhase::Closed, Some(floor_us)) =
            (recovery.phase, self.epoch_floor(shard, &recovery.epoch, &entered))
        {
            let registration = match entered {
                EpochStart::Behind { .. } => Registration::Above(floor_us),
                _ => Registration::ContinueAbove(floor_us),
            };
            recovery = self.store.register_primary(shard, registration).await?;
            entered = self.begin_epoch(shard, &recovery.epoch).await?;
        }
        let (wait, last) = match entered {
            _ if recovery.phase != RecoveryPhase::Closed => return Ok(recovery),
            // `watch_store` decides which store has the grants.
            EpochStart::Behind { .. } | EpochStart::OtherStore => return Ok(recovery),
            EpochStart::First => (Duration::ZERO, 0),
            EpochStart::HandedOver { last_fence } => (Duration::ZERO, last_fence.as_u64()),
            EpochStart::MayHaveGrants { journal_above, .. } => {
                let last = if safeguards::is_on(Safeguard::FenceFloor) { recovery.epoch.epoch_us } else { 0 };
                let wait = journal_above + Self::RECOVERY_MARGIN;
                (if safeguards::is_on(Safeguard::RecoveryWait) { wait } else { Duration::ZERO }, last)
            }
        };
        let is_handed_over = wait.is_zero() && safeguards::is_on(Safeguard::RecoveryWait);
        // The next loss may come before any fence of this epoch is recorded; those begin just
        // above the epoch's number.
        if safeguards::is_on(Safeguard::FloorNoted) {
            self.journal.record_last_fence(shard.tag, last.max(recovery.epoch.epoch_us)).await?;
        }
        let restored = self.restore(shard, &recovery.epoch, is_handed_over).await?;
        self.end_recovery(shard, &recovery.epoch, wait, last).await?;
        if restored > 0 {
            tracing::info!(grants = restored, "restored grants of long leases from the journal");
        }
        Ok(self.store.register_primary(shard, Registration::Check).await?)
    }

    /// The number that the epoch must exceed: a later epoch in the journal, or all fences
    /// issued before. `None` if it already does.
    fn epoch_floor(&self, shard: Shard, epoch: &Epoch, entered: &EpochStart) -> Option<u64> {
        match entered {
            EpochStart::Behind { epoch_us } => Some(*epoch_us),
            EpochStart::MayHaveGrants { last_fence, .. } if safeguards::is_on(Safeguard::FenceFloor) => {
                // The last fences may not be recorded yet.
                let floor_us = self.store.last_fence(shard).max(*last_fence) + Self::FENCE_GAP;
                (floor_us >= epoch.epoch_us).then_some(floor_us)
            }
            _ => None,
        }
    }

    /// Begins an epoch in the journal. If the journal accepts it, the database names this store.
    pub(super) async fn begin_epoch(&self, shard: Shard, epoch: &Epoch) -> Result<EpochStart, LocksError> {
        let entered = self.journal.begin_epoch(epoch, self.journal_above.as_duration()).await?;
        if !matches!(entered, EpochStart::Behind { .. } | EpochStart::OtherStore) {
            self.mark_store_named(shard);
        }
        Ok(entered)
    }

    async fn recover_shard_forever(&self, shard: Shard) {
        let mut recovery = self.store.recovery_state(shard);
        let mut last_error = String::new();
        loop {
            let closed = recovery
                .wait_for(|recovery| recovery.as_ref().is_some_and(|recovery| recovery.phase == RecoveryPhase::Closed));
            let is_first_notice = match closed.await {
                Ok(recovery) => recovery.as_ref().is_some_and(|recovery| recovery.is_first_notice),
                // The store is dropped: the process exits.
                Err(_) => return,
            };
            if !is_first_notice && last_error.is_empty() {
                sleep(Self::YIELD_TO_DETECTOR).await;
            }
            match self.recover_in(shard).await {
                Ok(_) => last_error.clear(),
                Err(error) => {
                    if last_error != error.to_string() {
                        last_error = error.to_string();
                        tracing::warn!(error = last_error, "a recovery cannot go on yet, and nothing is granted");
                    }
                    sleep(Self::RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Restores all journaled grants of a shard. With `is_handed_over` no grant was lost since
    /// they were recorded.
    async fn restore(&self, shard: Shard, epoch: &Epoch, is_handed_over: bool) -> Result<u64, LocksError> {
        let now_ms = self.store.now_us(shard).unwrap_or_default() / 1000;
        let (mut after, mut restored) = (String::new(), 0);
        loop {
            let mut grants = self.journal.page(epoch.tag, now_ms, &after).await?;
            let Some(last) = grants.last() else { return Ok(restored) };
            after.clone_from(&last.lock_key);
            // Rows from an older layout may belong to any shard.
            grants.retain(|grant| self.store.shard_of(&grant.lock_key) == shard);
            if is_handed_over {
                for grant in grants.iter_mut().filter(|grant| !grant.stored_grant.is_empty()) {
                    grant.stored_grant = mark_held_since(&grant.stored_grant, epoch.epoch_us);
                }
            }
            for batch in grants.chunks(Self::RESTORE_BATCH) {
                restored += self.restore_batch(shard, epoch, batch).await?;
            }
        }
    }

    async fn restore_batch(&self, shard: Shard, epoch: &Epoch, grants: &[JournalRow]) -> Result<u64, LocksError> {
        let mut keys = vec![
            primary_identity_key(&self.store, shard),
            clock_key(&self.store, shard),
            ended_key(&self.store, shard),
        ];
        let mut args = vec![epoch.to_string()];
        for grant in grants {
            let account = grant.stored_grant.split('\n').next().unwrap_or_default();
            keys.extend([grant_key(&self.store, &grant.lock_key), held_key(&self.store, shard, account)]);
            let numbers = [grant.fence.as_u64(), grant.seq, grant.expires_ms].map(|number| number.to_string());
            args.push(grant.lock_key.clone());
            args.extend(numbers);
            args.push(grant.stored_grant.clone());
        }
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let reply = self.store.eval_replicated(&RESTORE, &keys, &args).await?;
        match reply.status() {
            "restored" => {
                for at in (2..2 + reply.texts(2).count()).step_by(2) {
                    self.correct_index(shard, reply.text(at)?, reply.text(at + 1)?).await?;
                }
                Ok(reply.word(1)?)
            }
            // Another server has finished this recovery.
            "over" => Ok(0),
            _ => Err(reply.bad().into()),
        }
    }

    async fn end_recovery(&self, shard: Shard, epoch: &Epoch, wait: Duration, last: u64) -> Result<(), LocksError> {
        let keys = [primary_identity_key(&self.store, shard), clock_key(&self.store, shard)];
        let wait_ms = wait.as_millis().to_string();
        let args = [&*epoch.to_string(), &wait_ms, &last.to_string()];
        let reply = self.store.eval_replicated(&END_RECOVERY, &[&keys[0], &keys[1]], &args).await?;
        match reply.status() {
            "open" | "waiting" | "over" => Ok(()),
            _ => Err(reply.bad().into()),
        }
    }

    async fn sweep_journal_forever(&self) {
        loop {
            sleep(Self::SWEEP_INTERVAL).await;
            let now_us = self.store.shards().iter().filter_map(|shard| self.store.now_us(*shard)).min();
            let Some(now_us) = now_us else { continue };
            // If the store's clock runs ahead, rows must stay that are needed once it is right.
            let now_us = now_us.min(Timestamp::now().as_microsecond() as u64);
            if let Err(error) = self.journal.sweep(Self::swept_before_ms(now_us)).await {
                tracing::debug!(%error, "cannot delete expired journal rows");
            }
        }
    }

    /// The expiry in ms since 1970 before which a row is deleted now.
    fn swept_before_ms(now_us: u64) -> u64 {
        (now_us / 1000).saturating_sub(Self::SWEEP_AFTER.as_millis() as u64)
    }

    /// Saves the grants of an embedded store for the next process.
    pub(super) async fn hand_over_epoch(&self) {
        let Store::Embedded(embedded) = &self.store else { return };
        let shard = self.store.shard_of("");
        let recovery = self.store.recovery_state(shard);
        let Some(epoch) = recovery.borrow().as_ref().map(|recovery| recovery.epoch.clone()) else { return };
        let prefix = grant_key(&self.store, "");
        let grants = embedded.texts(&prefix).into_iter().filter_map(|entry| {
            let lock_key = entry.key.strip_prefix(&prefix)?;
            journal_row(lock_key, entry.expires_ms?, &entry.value)
        });
        // During a recovery the clock key is not a plain fence: the next process must then wait
        // for lost grants to expire, so nothing is handed over.
        let clock = embedded.texts(&clock_key(&self.store, shard)).pop();
        let Some(last) = clock.and_then(|clock| clock.value.parse::<u64>().ok()) else { return };
        // Before the first grant there is no fence; every later one exceeds the epoch's number.
        let Ok(last) = last.max(epoch.epoch_us).to_string().parse() else { return };
        if let Err(error) = self.journal.hand_over_epoch(&epoch, last, grants.collect()).await {
            tracing::warn!(%error, "cannot save the locks for the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_row_is_deleted_an_hour_after_expiry() {
        let (hour_ms, lapsed_ms) = (3_600_000, 1_700_000_000_000);
        assert_eq!(Locks::swept_before_ms((lapsed_ms + hour_ms) * 1000), lapsed_ms);
        assert_eq!(Locks::swept_before_ms(0), 0);
    }
}
