//! One database, one store: every server compares twice a second whether the store that
//! it works with is the one that the database names. Where it is not, the server grants
//! and confirms nothing: with another address of Redis, another database number, another
//! prefix or an older copy it would grant locks that others hold.
//!
//! Servers that work with the named store say so in the database (a *beat*). Only when
//! nobody does any more may another store be claimed in its stead, and then a recovery
//! begins there.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Locks, LocksError};
use crate::{
    lock::{Epoch, JournalError, StoreRow},
    store::{Arrival, Belonging, Shard, Standing, State, Store},
};

/// How often the database is asked.
const ROUND: Duration = Duration::from_millis(500);
/// How long nobody must have worked with the named store before a server claims its own
/// in its stead.
const CLAIM_AFTER: Duration = Duration::from_secs(10);
/// The same for a server that worked with the named store itself, which has lost its
/// data or was passed over.
const CLAIM_AFTER_LOSS: Duration = Duration::from_millis(1500);
/// For how long a server that cannot reach its store says that it works with it.
const BEATS_WITHOUT_STORE: Duration = Duration::from_secs(30);
/// A server that did not compare for so long, as it stood still, has to before it grants
/// anything.
const STOOD_STILL: Duration = Duration::from_secs(5);
/// How long a start waits to hear whether somebody works with the named store.
const LISTEN_AT_START: Duration = Duration::from_secs(3);
const LISTEN_PAUSE: Duration = Duration::from_millis(500);

/// Why a server must not start.
#[derive(Debug, thiserror::Error)]
pub enum StoreConflict {
    #[error(
        "other servers with this database keep the locks in another store: LOCKABLE_REDIS_URL, the database number in it, \
         or LOCKABLE_REDIS_PREFIX is not theirs; to move the locks, stop all servers first"
    )]
    InUse,
}

/// What is known of the store of one shard.
struct Watched {
    shard: Shard,
    /// What the database said of others when that changed last, and when that was.
    others: Option<(Vec<StoreRow>, Instant)>,
    /// The beat after the round before.
    beat: u64,
    /// When the store could be reached last.
    reached: Instant,
    /// The store that this server has claimed last: it may be emptied again before it is
    /// entered.
    claimed: Option<Epoch>,
}

/// How the store of a shard compares with what the database says.
enum Compared {
    Same,
    /// The database does not know all that it has to know of this server.
    ToEnter,
    /// A recovery will enter it.
    ToRecover,
    /// Others have the grants.
    Foreign {
        is_behind: bool,
    },
}

impl Locks {
    /// Compares the store with the one that the database names, for ever.
    pub(super) async fn watch_store(&self) {
        if let Store::Embedded(_) = self.store {
            // The one process that has the database has the store in it.
            return;
        }
        let watch = |shard: &Shard| Watched::new(*shard);
        let mut watched: Vec<Watched> = self.store.shards().iter().map(watch).collect();
        let mut compared = Instant::now();
        loop {
            sleep(ROUND).await;
            if compared.elapsed() > STOOD_STILL {
                for shard in self.store.shards() {
                    self.store.set_belonging(*shard, Belonging::Unknown);
                }
            }
            if let Err(error) = self.compare_all(&mut watched).await {
                tracing::debug!(%error, "the store could not be compared with the database");
            }
            compared = Instant::now();
        }
    }

    async fn compare_all(&self, watched: &mut [Watched]) -> Result<(), JournalError> {
        let rows = self.journal.stores().await?;
        let mut beats = Vec::new();
        for watched in watched {
            if self.store.is_there(watched.shard) {
                watched.reached = Instant::now();
            }
            let Some(standing) = self.store.standing(watched.shard).borrow().clone() else { continue };
            let (own, others) = self.find(&rows, watched.shard);
            if let Err(error) = self.follow(watched, &standing, own, &others).await {
                tracing::debug!(%error, "the store could not be entered into the database");
            }
            if let Some(own) = own.filter(|own| own.store == standing.epoch.store && others.is_empty())
                && own.epoch_us <= standing.epoch.epoch_us
                && watched.reached.elapsed() < BEATS_WITHOUT_STORE
            {
                // One server says it for all.
                watched.beat = match own.beat == watched.beat {
                    true => {
                        beats.push(&*own.store);
                        own.beat + 1
                    }
                    false => own.beat,
                };
            }
        }
        if !beats.is_empty() {
            self.journal.beat(&beats).await?;
        }
        Ok(())
    }

    /// What the database says of a shard, and of stores that have locks spread otherwise.
    fn find<'a>(&self, rows: &'a [StoreRow], shard: Shard) -> (Option<&'a StoreRow>, Vec<&'a StoreRow>) {
        let own = rows.iter().find(|row| row.tag == shard.tag);
        let is_known = |row: &StoreRow| self.store.shards().iter().any(|shard| shard.tag == row.tag);
        (own, rows.iter().filter(|row| !row.store.is_empty() && !is_known(row)).collect())
    }

    fn compare(&self, standing: &Standing, own: Option<&StoreRow>, others: &[&StoreRow]) -> Compared {
        let epoch = &standing.epoch;
        match own {
            _ if !others.is_empty() => Compared::Foreign { is_behind: false },
            Some(own) if own.store != epoch.store => Compared::Foreign { is_behind: false },
            _ if standing.state == State::Closed => Compared::ToRecover,
            Some(own) if own.epoch_us > epoch.epoch_us => Compared::Foreign { is_behind: true },
            Some(own) if own.epoch_us == epoch.epoch_us && own.short >= self.short.as_duration() => Compared::Same,
            _ => Compared::ToEnter,
        }
    }

    async fn follow(
        &self,
        watched: &mut Watched,
        standing: &Standing,
        own: Option<&StoreRow>,
        others: &[&StoreRow],
    ) -> Result<(), LocksError> {
        let shard = watched.shard;
        match self.compare(standing, own, others) {
            Compared::Same => self.note_ours(shard),
            Compared::ToEnter => {
                self.enter(shard, &standing.epoch).await?;
            }
            Compared::ToRecover => {}
            Compared::Foreign { is_behind } => {
                // Another server may have begun the epoch, and this one not have heard of it.
                if self.store.arrive(shard, Arrival::Look).await?.epoch == standing.epoch {
                    self.stand_aside(watched, standing, (own, others), is_behind).await?;
                }
                return Ok(());
            }
        }
        watched.others = None;
        Ok(())
    }

    /// Grants nothing while others have the grants, and claims them once nobody works with
    /// the others' stores any more.
    async fn stand_aside(
        &self,
        watched: &mut Watched,
        standing: &Standing,
        (own, others): (Option<&StoreRow>, &[&StoreRow]),
        is_behind: bool,
    ) -> Result<(), LocksError> {
        let shard = watched.shard;
        let rows: Vec<StoreRow> = own.into_iter().chain(others.iter().copied()).cloned().collect();
        // This server worked with the named store: its own has lost its data, or was
        // passed over.
        let known = self.store.ours(shard).into_iter().chain(watched.claimed.clone());
        let before = own.and_then(|own| known.into_iter().find(|before| own.store == before.store));
        // Emptied under its process: nobody can find there what it had.
        let is_emptied = !is_behind
            && others.is_empty()
            && before.as_ref().is_some_and(|before| before.process == standing.epoch.process);
        let patience = match &before {
            _ if is_emptied || rows.iter().all(|row| row.store.is_empty()) => Duration::ZERO,
            Some(_) => CLAIM_AFTER_LOSS,
            None => CLAIM_AFTER,
        };
        if standing.state != State::Closed || before.is_none() {
            // What is closed after a loss grants nothing anyway.
            self.note_foreign(shard);
        }
        if !watched.has_heard_nothing(&rows, patience) {
            return Ok(());
        }
        // Closed first: what opens it again is a recovery alone, whoever goes on with this.
        if standing.state != State::Closed {
            self.store.arrive(shard, Arrival::Anew(&standing.epoch)).await?;
        }
        let is_closed = |shard: &Shard| {
            self.store.standing(*shard).borrow().as_ref().is_some_and(|standing| standing.state == State::Closed)
        };
        let can_claim = is_closed(&shard) && (others.is_empty() || self.store.shards().iter().all(is_closed));
        if can_claim && self.claim(standing, &rows).await? {
            watched.claimed = Some(standing.epoch.clone());
            self.recover_in(shard).await?;
        }
        Ok(())
    }

    /// Claims that this store has the grants from now on, and no other.
    async fn claim(&self, standing: &Standing, rows: &[StoreRow]) -> Result<bool, JournalError> {
        let tag = standing.epoch.tag;
        for other in rows.iter().filter(|row| row.tag != tag) {
            if !self.journal.claim(other, "").await? {
                return Ok(false);
            }
        }
        let claimed = match rows.iter().find(|row| row.tag == tag) {
            Some(own) => self.journal.claim(own, &standing.epoch.store).await?,
            None => true,
        };
        if claimed {
            tracing::warn!(
                shard = tag,
                "nobody works with the store that the database names any more; this one takes its lock_key, and begins a recovery"
            );
        }
        Ok(claimed)
    }

    pub(super) fn note_ours(&self, shard: Shard) {
        if self.store.belonging(shard) == Belonging::Foreign {
            tracing::warn!(shard = shard.tag, "the database names the store of this server again");
        }
        self.store.set_belonging(shard, Belonging::Ours);
    }

    fn note_foreign(&self, shard: Shard) {
        if self.store.belonging(shard) != Belonging::Foreign {
            tracing::error!(
                shard = shard.tag,
                "the database names another store than this server works with, which grants and confirms nothing now; \
                 see docs/operations.md#one-database-one-store"
            );
        }
        self.store.set_belonging(shard, Belonging::Foreign);
    }

    /// Finds out whether other servers work with another store.
    ///
    /// # Errors
    /// When they do: this server must not start. When the journal could not be asked it is
    /// not known, and nothing is granted before it is.
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
                // The epoch may have begun just now, and in the store of this server.
                for shard in self.store.shards().iter().filter(|shard| self.store.is_there(**shard)) {
                    drop(self.store.arrive(*shard, Arrival::Look).await);
                }
                foreign = self.foreign_rows(&rows);
            }
            if foreign.is_empty() {
                return Ok(());
            }
            let before = before.get_or_insert_with(|| foreign.clone());
            let has_beaten =
                |row: &StoreRow| before.iter().any(|before| before.tag == row.tag && before.beat != row.beat);
            if foreign.iter().any(has_beaten) {
                return Err(StoreConflict::InUse);
            }
            if begun.elapsed() > LISTEN_AT_START {
                return Ok(());
            }
            sleep(LISTEN_PAUSE).await;
        }
    }

    /// The rows by which others have the grants of some shard.
    fn foreign_rows(&self, rows: &[StoreRow]) -> Vec<StoreRow> {
        let of_shard = |shard: &Shard| {
            let standing = self.store.standing(*shard).borrow().clone()?;
            let (own, others) = self.find(rows, *shard);
            match self.compare(&standing, own, &others) {
                Compared::Foreign { .. } => Some(own.into_iter().chain(others).cloned().collect::<Vec<_>>()),
                Compared::Same | Compared::ToEnter | Compared::ToRecover => None,
            }
        };
        self.store.shards().iter().filter_map(of_shard).flatten().collect()
    }
}

impl Watched {
    fn new(shard: Shard) -> Self {
        Self { shard, others: None, beat: 0, reached: Instant::now(), claimed: None }
    }

    /// Whether nobody has worked with these stores for so long.
    fn has_heard_nothing(&mut self, rows: &[StoreRow], patience: Duration) -> bool {
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
