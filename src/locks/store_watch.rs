//! One database, one store: twice a second every server checks that the database names the
//! store that the server uses. If it names another, the server grants and confirms nothing:
//! with another address of Redis, another database number, another prefix or an older copy
//! of the data it would grant locks that others hold.
//!
//! Servers that use the named store send heartbeats to the database. Another server claims
//! its own store only after these heartbeats have stopped, and a recovery begins there.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Locks, LocksError};
use crate::{
    lock::{Epoch, JournalError, StoreRow},
    store::{RecoveryPhase, RecoveryState, Registration, Shard, Store, StoreMatch},
};

/// The interval of comparisons with the database.
const COMPARE_INTERVAL: Duration = Duration::from_millis(500);
/// How long the heartbeats of the named store must have stopped before a server claims its own.
const CLAIM_AFTER: Duration = Duration::from_secs(10);
/// The same for a server that used the named store itself, which has lost its data or been
/// replaced.
const CLAIM_AFTER_LOSS: Duration = Duration::from_millis(1500);
/// How long a server that cannot reach its store continues to send heartbeats.
const HEARTBEATS_WITHOUT_STORE: Duration = Duration::from_secs(30);
/// After a gap of this length between comparisons (a stall), a server grants nothing before
/// the next comparison.
const STALL: Duration = Duration::from_secs(5);
/// How long a starting server observes the heartbeats of the named store.
const OBSERVE_AT_START: Duration = Duration::from_secs(3);
const OBSERVE_PAUSE: Duration = Duration::from_millis(500);

/// Reason for which a server must not start.
#[derive(Debug, thiserror::Error)]
pub enum StoreConflict {
    #[error(
        "other servers with this database keep the locks in another store: LOCKABLE_REDIS_URL, the database number in it, \
         or LOCKABLE_REDIS_PREFIX is not theirs; to move the locks, stop all servers first"
    )]
    InUse,
}

/// The observed state of one shard's store.
struct WatchedShard {
    shard: Shard,
    /// The rows of other stores in the database, and when they last changed.
    others: Option<(Vec<StoreRow>, Instant)>,
    /// The store's heartbeat counter after the previous round.
    heartbeats: u64,
    /// When the store was last reachable.
    reached: Instant,
    /// The epoch that this server claimed last: the store may be emptied again before the
    /// epoch begins in the journal.
    claimed: Option<Epoch>,
}

/// Result of comparing a shard's store with the database.
enum Comparison {
    Same,
    /// This epoch or this server's `journal_above` is missing in the database.
    MustEnter,
    /// A recovery is due, and will begin the epoch.
    InRecovery,
    /// The database names another store, or a later epoch (`is_behind`).
    Foreign {
        is_behind: bool,
    },
}

impl Locks {
    /// Compares the store with the database in a loop.
    pub(super) async fn watch_store(&self) {
        if let Store::Embedded(_) = self.store {
            // An embedded store belongs to the one process that has its database open.
            return;
        }
        let watch = |shard: &Shard| WatchedShard::new(*shard);
        let mut watched: Vec<WatchedShard> = self.store.shards().iter().map(watch).collect();
        let mut compared = Instant::now();
        loop {
            sleep(COMPARE_INTERVAL).await;
            if compared.elapsed() > STALL {
                for shard in self.store.shards() {
                    self.store.set_store_match(*shard, StoreMatch::Unknown);
                }
            }
            if let Err(error) = self.compare_all(&mut watched).await {
                tracing::debug!(%error, "cannot compare the store with the database");
            }
            compared = Instant::now();
        }
    }

    async fn compare_all(&self, watched: &mut [WatchedShard]) -> Result<(), JournalError> {
        let rows = self.journal.stores().await?;
        let mut stores_in_use = Vec::new();
        for watched in watched {
            if self.store.is_connected(watched.shard) {
                watched.reached = Instant::now();
            }
            let Some(recovery) = self.store.recovery_state(watched.shard).borrow().clone() else { continue };
            let (own, others) = self.find_rows(&rows, watched.shard);
            if let Err(error) = self.act_on_comparison(watched, &recovery, own, &others).await {
                tracing::debug!(%error, "cannot begin the epoch in the database");
            }
            if let Some(own) = own.filter(|own| own.store == recovery.epoch.store && others.is_empty())
                && own.epoch_us <= recovery.epoch.epoch_us
                && watched.reached.elapsed() < HEARTBEATS_WITHOUT_STORE
            {
                // One server counts for all: a counter that another has raised is left alone.
                watched.heartbeats = match own.heartbeats == watched.heartbeats {
                    true => {
                        stores_in_use.push(&*own.store);
                        own.heartbeats + 1
                    }
                    false => own.heartbeats,
                };
            }
        }
        if !stores_in_use.is_empty() {
            self.journal.heartbeat(&stores_in_use).await?;
        }
        Ok(())
    }

    /// The row of a shard, and the rows of stores with another shard layout.
    fn find_rows<'a>(&self, rows: &'a [StoreRow], shard: Shard) -> (Option<&'a StoreRow>, Vec<&'a StoreRow>) {
        let own = rows.iter().find(|row| row.tag == shard.tag);
        let is_known = |row: &StoreRow| self.store.shards().iter().any(|shard| shard.tag == row.tag);
        (own, rows.iter().filter(|row| !row.store.is_empty() && !is_known(row)).collect())
    }

    fn compare(&self, recovery: &RecoveryState, own: Option<&StoreRow>, others: &[&StoreRow]) -> Comparison {
        let epoch = &recovery.epoch;
        match own {
            _ if !others.is_empty() => Comparison::Foreign { is_behind: false },
            Some(own) if own.store != epoch.store => Comparison::Foreign { is_behind: false },
            _ if recovery.phase == RecoveryPhase::Closed => Comparison::InRecovery,
            Some(own) if own.epoch_us > epoch.epoch_us => Comparison::Foreign { is_behind: true },
            Some(own) if own.epoch_us == epoch.epoch_us && own.journal_above >= self.journal_above.as_duration() => {
                Comparison::Same
            }
            _ => Comparison::MustEnter,
        }
    }

    async fn act_on_comparison(
        &self,
        watched: &mut WatchedShard,
        recovery: &RecoveryState,
        own: Option<&StoreRow>,
        others: &[&StoreRow],
    ) -> Result<(), LocksError> {
        let shard = watched.shard;
        match self.compare(recovery, own, others) {
            Comparison::Same => self.mark_store_named(shard),
            Comparison::MustEnter => {
                self.begin_epoch(shard, &recovery.epoch).await?;
            }
            Comparison::InRecovery => {}
            Comparison::Foreign { is_behind } => {
                // Another server may have begun a new epoch that this one has not read yet.
                if self.store.register_primary(shard, Registration::Check).await?.epoch == recovery.epoch {
                    self.yield_to_other_store(watched, recovery, (own, others), is_behind).await?;
                }
                return Ok(());
            }
        }
        watched.others = None;
        Ok(())
    }

    /// Grants nothing while the database names another store, and claims the grants for this
    /// store once the other's heartbeats have stopped.
    async fn yield_to_other_store(
        &self,
        watched: &mut WatchedShard,
        recovery: &RecoveryState,
        (own, others): (Option<&StoreRow>, &[&StoreRow]),
        is_behind: bool,
    ) -> Result<(), LocksError> {
        let shard = watched.shard;
        let rows: Vec<StoreRow> = own.into_iter().chain(others.iter().copied()).cloned().collect();
        // `before`: this server used the named store, which has lost its data or been replaced.
        let known = self.store.last_named_epoch(shard).into_iter().chain(watched.claimed.clone());
        let before = own.and_then(|own| known.into_iter().find(|before| own.store == before.store));
        // The same Redis process was emptied: no server can use the former data any longer.
        let is_emptied = !is_behind
            && others.is_empty()
            && before.as_ref().is_some_and(|before| before.process == recovery.epoch.process);
        let patience = match &before {
            _ if is_emptied || rows.iter().all(|row| row.store.is_empty()) => Duration::ZERO,
            Some(_) => CLAIM_AFTER_LOSS,
            None => CLAIM_AFTER,
        };
        if recovery.phase != RecoveryPhase::Closed || before.is_none() {
            // A closed store grants nothing anyway.
            self.mark_store_foreign(shard);
        }
        if !watched.is_unchanged_for(&rows, patience) {
            return Ok(());
        }
        // Close the store before the claim: only a recovery opens it again, in any server.
        if recovery.phase != RecoveryPhase::Closed {
            self.store.register_primary(shard, Registration::Restart(&recovery.epoch)).await?;
        }
        let is_closed = |shard: &Shard| {
            self.store
                .recovery_state(*shard)
                .borrow()
                .as_ref()
                .is_some_and(|recovery| recovery.phase == RecoveryPhase::Closed)
        };
        let can_claim = is_closed(&shard) && (others.is_empty() || self.store.shards().iter().all(is_closed));
        if can_claim && self.claim_store(recovery, &rows).await? {
            watched.claimed = Some(recovery.epoch.clone());
            self.recover_in(shard).await?;
        }
        Ok(())
    }

    /// Makes the database name this store and no other. Returns `false` if a row has changed.
    async fn claim_store(&self, recovery: &RecoveryState, rows: &[StoreRow]) -> Result<bool, JournalError> {
        let tag = recovery.epoch.tag;
        for other in rows.iter().filter(|row| row.tag != tag) {
            if !self.journal.claim(other, "").await? {
                return Ok(false);
            }
        }
        let claimed = match rows.iter().find(|row| row.tag == tag) {
            Some(own) => self.journal.claim(own, &recovery.epoch.store).await?,
            None => true,
        };
        if claimed {
            tracing::warn!(
                shard = tag,
                "the store that the database names is no longer used by any server; claiming the grants for this store and beginning a recovery"
            );
        }
        Ok(claimed)
    }

    pub(super) fn mark_store_named(&self, shard: Shard) {
        if self.store.store_match(shard) == StoreMatch::Foreign {
            tracing::warn!(shard = shard.tag, "the database names this server's store again");
        }
        self.store.set_store_match(shard, StoreMatch::Named);
    }

    fn mark_store_foreign(&self, shard: Shard) {
        if self.store.store_match(shard) != StoreMatch::Foreign {
            tracing::error!(
                shard = shard.tag,
                "the database names another store, so this server grants and confirms nothing; \
                 see docs/operations.md#one-database-one-store"
            );
        }
        self.store.set_store_match(shard, StoreMatch::Foreign);
    }

    /// Checks whether other servers use another store. Returns `Ok` if the journal is not
    /// available: the server then grants nothing before a comparison succeeds.
    ///
    /// # Errors
    /// They do: this server must not start.
    pub async fn check_store_at_start(&self) -> Result<(), StoreConflict> {
        if let Store::Embedded(_) = self.store {
            return Ok(());
        }
        let begun = Instant::now();
        let mut before = None;
        loop {
            let Ok(rows) = self.journal.stores().await else { return Ok(()) };
            let mut foreign = self.foreign_rows(&rows);
            if !foreign.is_empty() {
                // A new epoch may have begun in this server's own store just now.
                for shard in self.store.shards().iter().filter(|shard| self.store.is_connected(**shard)) {
                    drop(self.store.register_primary(*shard, Registration::Check).await);
                }
                foreign = self.foreign_rows(&rows);
            }
            if foreign.is_empty() {
                return Ok(());
            }
            let before = before.get_or_insert_with(|| foreign.clone());
            let has_heartbeat = |row: &StoreRow| {
                before.iter().any(|before| before.tag == row.tag && before.heartbeats != row.heartbeats)
            };
            if foreign.iter().any(has_heartbeat) {
                return Err(StoreConflict::InUse);
            }
            if begun.elapsed() > OBSERVE_AT_START {
                return Ok(());
            }
            sleep(OBSERVE_PAUSE).await;
        }
    }

    /// The rows that name other stores for any shard.
    fn foreign_rows(&self, rows: &[StoreRow]) -> Vec<StoreRow> {
        let of_shard = |shard: &Shard| {
            let recovery = self.store.recovery_state(*shard).borrow().clone()?;
            let (own, others) = self.find_rows(rows, *shard);
            match self.compare(&recovery, own, &others) {
                Comparison::Foreign { .. } => Some(own.into_iter().chain(others).cloned().collect::<Vec<_>>()),
                Comparison::Same | Comparison::MustEnter | Comparison::InRecovery => None,
            }
        };
        self.store.shards().iter().filter_map(of_shard).flatten().collect()
    }
}

impl WatchedShard {
    fn new(shard: Shard) -> Self {
        Self { shard, others: None, heartbeats: 0, reached: Instant::now(), claimed: None }
    }

    /// Whether these rows, with their heartbeats, have not changed for this long.
    fn is_unchanged_for(&mut self, rows: &[StoreRow], patience: Duration) -> bool {
        let since = match &self.others {
            Some((before, since)) if before == rows => *since,
            _ => {
                let now = Instant::now();
                self.others = Some((rows.to_vec(), now));
                now
            }
        };
        since.elapsed() >= patience
    }
}
