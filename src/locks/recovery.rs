//! What happens after the store may have forgotten grants: nothing is granted
//! until those of long leases have been put back from the journal, and all others
//! have lapsed.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all, stream};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    LockId, Locks, LocksError,
    grant_codec::held_since,
    journal::row_of,
    keys::{clock_key, ended_key, grant_key, held_key, home_key},
    requests::script,
};
use crate::{
    lock::{Entered, Epoch, JournalRow},
    mends::{self, Mend},
    store::{Arrival, Script, Shard, Standing, State, Store},
};

static RESTORE: Script = script!("restore" = "grant_codec" "restore");
static REOPEN: Script = script!("end_recovery");

impl Locks {
    /// How much longer a recovery lasts than the longest lease that is not
    /// written down: clocks do not run alike, and holders count from when they
    /// had their answer.
    pub const RECOVERY_MARGIN: Duration = Duration::from_secs(5);

    /// By how much the next fence after a recovery lies above the last one that is known
    /// to have been given: a minute of a clock that tells the right time, and more than
    /// can be given between two notes where it does not.
    const FENCES_UNNOTED: u64 = 60_000_000;

    /// How long to leave it to the server that was the first to notice.
    const COURTESY: Duration = Duration::from_secs(2);
    const RETRY_PAUSE: Duration = Duration::from_secs(1);
    /// How often to forget what has lapsed, and how long after.
    const SWEEP_INTERVAL: Duration = Duration::from_secs(300);
    const SWEEP_AFTER: Duration = Duration::from_secs(3600);
    /// How many grants are put back at a time.
    const BATCH: usize = 100;
    /// How many shards are looked at at once when the server starts.
    const SHARDS_AT_ONCE: usize = 8;

    /// Sees to it that every recovery comes to its end.
    pub(super) async fn recover_always(&self) {
        let mend_all = join_all(self.store.shards().iter().map(|shard| self.mend_always(*shard)));
        tokio::join!(
            mend_all,
            self.sweep_always(),
            self.follow_store(),
            self.watch_store(),
            self.note_end_of_recovery()
        );
    }

    /// Takes note of the end of a recovery in an embedded store: nobody else asks it how the
    /// grants stand, as is done with Redis once a second.
    async fn note_end_of_recovery(&self) {
        let Store::Embedded(_) = self.store else { return };
        let shard = self.store.shard_of("");
        let mut standing = self.store.standing(shard);
        let rest = |standing: &Option<Standing>| match standing.as_ref().map(|standing| standing.state) {
            Some(State::Waiting { until }) => Some(until),
            _ => None,
        };
        loop {
            let Ok(waiting) =
                standing.wait_for(|standing| rest(standing).is_some()).await.map(|standing| rest(&standing))
            else {
                return;
            };
            // The store rounds to milliseconds.
            sleep_until(waiting.unwrap_or_else(Instant::now) + Duration::from_millis(2)).await;
            if let Err(error) = self.store.arrive(shard, Arrival::Look).await {
                tracing::debug!(%error, "the store could not be asked how its grants stand");
            }
        }
    }

    /// How much longer nothing is granted, in some shard at least, as far as is
    /// known; `None` when locks are.
    pub fn recovery_rest(&self) -> Option<Duration> {
        self.store.recovery_rest()
    }

    /// When a lock can be granted again at the earliest, in a recovery; `None` when it can be
    /// now, as far as is known.
    pub fn recovering_until(&self, lock: &LockId) -> Option<Timestamp> {
        Some(Timestamp::now() + self.store.recovery_rest_in(self.store.shard_of(&lock.lock_key()))?)
    }

    /// The same for the lock that has to wait longest.
    pub fn all_recovered_at(&self) -> Option<Timestamp> {
        Some(Timestamp::now() + self.store.recovery_rest()?)
    }

    /// Finds out whether grants may have been forgotten, and puts back what is
    /// known of them if so.
    ///
    /// # Errors
    /// When the store or the journal could not be asked.
    pub async fn recover(&self) -> Result<(), LocksError> {
        let recovering = self.store.shards().iter().copied().map(|shard| self.recover_in(shard));
        let recovered: Vec<_> = stream::iter(recovering).buffer_unordered(Self::SHARDS_AT_ONCE).collect().await;
        recovered.into_iter().try_for_each(|recovered| recovered.map(drop))
    }

    /// The same, for one shard.
    pub(super) async fn recover_in(&self, shard: Shard) -> Result<Standing, LocksError> {
        let mut standing = self.store.arrive(shard, Arrival::Look).await?;
        let mut entered = self.enter(shard, &standing.epoch).await?;
        while let (State::Closed, Some(floor_us)) = (standing.state, self.floor(shard, &standing.epoch, &entered)) {
            let arrival = match entered {
                Entered::Behind { .. } => Arrival::Above(floor_us),
                _ => Arrival::GoOnAbove(floor_us),
            };
            standing = self.store.arrive(shard, arrival).await?;
            entered = self.enter(shard, &standing.epoch).await?;
        }
        let (wait, last) = match entered {
            _ if standing.state != State::Closed => return Ok(standing),
            // It is for `watch_store` to say who has the grants.
            Entered::Behind { .. } | Entered::Elsewhere => return Ok(standing),
            Entered::First => (Duration::ZERO, 0),
            Entered::HandedOver { last } => (Duration::ZERO, last.as_u64()),
            Entered::Again { short, .. } => {
                let last = if mends::is_on(Mend::FenceFloor) { standing.epoch.epoch_us } else { 0 };
                let wait = short + Self::RECOVERY_MARGIN;
                (if mends::is_on(Mend::RecoveryWait) { wait } else { Duration::ZERO }, last)
            }
        };
        let is_handed_over = wait.is_zero() && mends::is_on(Mend::RecoveryWait);
        // Grants of this epoch may have a fence just above its epoch, which nobody has noted
        // when the next loss comes.
        if mends::is_on(Mend::FloorNoted) {
            self.journal.note_fence(shard.tag, last.max(standing.epoch.epoch_us)).await?;
        }
        let restored = self.restore(shard, &standing.epoch, is_handed_over).await?;
        self.reopen(shard, &standing.epoch, wait, last).await?;
        if restored > 0 {
            tracing::info!(grants = restored, "put back grants of long leases");
        }
        Ok(self.store.arrive(shard, Arrival::Look).await?)
    }

    /// What the epoch has to be above: another epoch, and all fences that were given
    /// before. Nothing if it is.
    fn floor(&self, shard: Shard, epoch: &Epoch, entered: &Entered) -> Option<u64> {
        match entered {
            Entered::Behind { epoch_us } => Some(*epoch_us),
            Entered::Again { last, .. } if mends::is_on(Mend::FenceFloor) => {
                // The last ones may not have been noted yet.
                let floor_us = self.store.last_fence(shard).max(*last) + Self::FENCES_UNNOTED;
                (floor_us >= epoch.epoch_us).then_some(floor_us)
            }
            _ => None,
        }
    }

    /// Enters the journal, and takes note of it if the grants are where it says now.
    pub(super) async fn enter(&self, shard: Shard, epoch: &Epoch) -> Result<Entered, LocksError> {
        let entered = self.journal.enter(epoch, self.short.as_duration()).await?;
        if !matches!(entered, Entered::Behind { .. } | Entered::Elsewhere) {
            self.note_ours(shard);
        }
        Ok(entered)
    }

    async fn mend_always(&self, shard: Shard) {
        let mut standing = self.store.standing(shard);
        let mut complaint = String::new();
        loop {
            let closed =
                standing.wait_for(|standing| standing.as_ref().is_some_and(|standing| standing.state == State::Closed));
            let is_news = match closed.await {
                Ok(standing) => standing.as_ref().is_some_and(|standing| standing.is_news),
                // The store is gone, and the process with it.
                Err(_) => return,
            };
            if !is_news && complaint.is_empty() {
                sleep(Self::COURTESY).await;
            }
            match self.recover_in(shard).await {
                Ok(_) => complaint.clear(),
                Err(error) => {
                    if complaint != error.to_string() {
                        complaint = error.to_string();
                        tracing::warn!(error = complaint, "a recovery cannot go on yet, and nothing is granted");
                    }
                    sleep(Self::RETRY_PAUSE).await;
                }
            }
        }
    }

    /// With `is_handed_over` nothing was lost since the grants were recorded.
    async fn restore(&self, shard: Shard, epoch: &Epoch, is_handed_over: bool) -> Result<u64, LocksError> {
        let now_ms = self.store.now_us(shard).unwrap_or_default() / 1000;
        let (mut after, mut restored) = (String::new(), 0);
        loop {
            let mut grants = self.journal.page(epoch.tag, now_ms, &after).await?;
            let Some(last) = grants.last() else { return Ok(restored) };
            after.clone_from(&last.lock_key);
            // Those from when locks were spread otherwise are of all shards.
            grants.retain(|grant| self.store.shard_of(&grant.lock_key) == shard);
            if is_handed_over {
                for grant in grants.iter_mut().filter(|grant| !grant.record.is_empty()) {
                    grant.record = held_since(&grant.record, epoch.epoch_us);
                }
            }
            for batch in grants.chunks(Self::BATCH) {
                restored += self.restore_batch(shard, epoch, batch).await?;
            }
        }
    }

    async fn restore_batch(&self, shard: Shard, epoch: &Epoch, grants: &[JournalRow]) -> Result<u64, LocksError> {
        let mut keys = vec![home_key(&self.store, shard), clock_key(&self.store, shard), ended_key(&self.store, shard)];
        let mut args = vec![epoch.to_string()];
        for grant in grants {
            let account = grant.record.split('\n').next().unwrap_or_default();
            keys.extend([grant_key(&self.store, &grant.lock_key), held_key(&self.store, shard, account)]);
            let numbers = [grant.fence.as_u64(), grant.seq, grant.expires_ms].map(|number| number.to_string());
            args.push(grant.lock_key.clone());
            args.extend(numbers);
            args.push(grant.record.clone());
        }
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let reply = self.store.run_replicated(&RESTORE, &keys, &args).await?;
        match reply.status() {
            "restored" => {
                for at in (2..2 + reply.texts(2).count()).step_by(2) {
                    self.correct_index(shard, reply.text(at)?, reply.text(at + 1)?).await?;
                }
                Ok(reply.word(1)?)
            }
            // Another server was quicker.
            "over" => Ok(0),
            _ => Err(reply.bad().into()),
        }
    }

    async fn reopen(&self, shard: Shard, epoch: &Epoch, wait: Duration, last: u64) -> Result<(), LocksError> {
        let keys = [home_key(&self.store, shard), clock_key(&self.store, shard)];
        let wait_ms = wait.as_millis().to_string();
        let args = [&*epoch.to_string(), &wait_ms, &last.to_string()];
        let reply = self.store.run_replicated(&REOPEN, &[&keys[0], &keys[1]], &args).await?;
        match reply.status() {
            "open" | "waiting" | "over" => Ok(()),
            _ => Err(reply.bad().into()),
        }
    }

    async fn sweep_always(&self) {
        loop {
            sleep(Self::SWEEP_INTERVAL).await;
            let now_us = self.store.shards().iter().filter_map(|shard| self.store.now_us(*shard)).min();
            let Some(now_us) = now_us else { continue };
            // A store whose clock runs ahead must not have rows swept that it would need
            // once the clock is right again.
            let now_us = now_us.min(Timestamp::now().as_microsecond() as u64);
            if let Err(error) = self.journal.sweep(Self::swept_before_ms(now_us)).await {
                tracing::debug!(%error, "the journal could not be swept");
            }
        }
    }

    /// When a grant must have lapsed to be forgotten now.
    fn swept_before_ms(now_us: u64) -> u64 {
        (now_us / 1000).saturating_sub(Self::SWEEP_AFTER.as_millis() as u64)
    }

    /// Leaves the grants of an embedded store to the process that comes next.
    pub(super) async fn hand_over(&self) {
        let Store::Embedded(embedded) = &self.store else { return };
        let shard = self.store.shard_of("");
        let standing = self.store.standing(shard);
        let Some(epoch) = standing.borrow().as_ref().map(|standing| standing.epoch.clone()) else { return };
        let prefix = grant_key(&self.store, "");
        let grants = embedded.texts(&prefix).into_iter().filter_map(|kept| {
            let lock_key = kept.key.strip_prefix(&prefix)?;
            row_of(lock_key, kept.expires_ms?, &kept.value)
        });
        // In a recovery it is no fence alone, and what is forgotten by then must
        // lapse in the next process, too.
        let clock = embedded.texts(&clock_key(&self.store, shard)).pop();
        let Some(last) = clock.and_then(|clock| clock.value.parse::<u64>().ok()) else { return };
        // Before the first grant there is no fence yet, and the epoch is below each that follows.
        let Ok(last) = last.max(epoch.epoch_us).to_string().parse() else { return };
        if let Err(error) = self.journal.hand_over(&epoch, last, grants.collect()).await {
            tracing::warn!(%error, "locks are not kept for the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_forgotten_an_hour_after_it_has_lapsed() {
        let (hour_ms, lapsed_ms) = (3_600_000, 1_700_000_000_000);
        assert_eq!(Locks::swept_before_ms((lapsed_ms + hour_ms) * 1000), lapsed_ms);
        assert_eq!(Locks::swept_before_ms(0), 0);
    }
}
