//! The SQL database: two tables with the statements of `src/accounts/ledger.rs`, each of
//! which is carried out as a whole, sooner or later, and answered or not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use lockable::{
    keyspace::LOCK_TAG,
    lock::{EndedGrant, Entered, Era, Fence, JournalRow, Ledger, LedgerError, RECENT_END, StoreRow, Written},
    mends::{self, Mend},
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::world::{World, is_until};

const TIMEOUT: Duration = Duration::from_secs(2);
const PAGE: usize = 500;

#[derive(Default)]
pub struct Tables {
    /// That of the only tag.
    keyspace: Option<KeyspaceRow>,
    journal: BTreeMap<(String, u64), Row>,
}

struct KeyspaceRow {
    store: String,
    beat: u64,
    epoch: u64,
    founded: u64,
    short_ms: u64,
    last_fence: u64,
    last_before: u64,
}

struct Row {
    seq: u64,
    expires_ms: u64,
    ended_ms: Option<u64>,
    record: String,
}

pub struct Database {
    world: Arc<World>,
    tables: Mutex<Tables>,
}

/// One server's way to the database.
pub struct Way {
    pub database: Arc<Database>,
    pub server: usize,
}

impl Database {
    pub fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self { world, tables: Mutex::default() })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    /// Whether the journal knows that a grant has ended.
    pub fn has_ended(&self, place: &str, fence: u64) -> bool {
        let tables = self.tables();
        tables.journal.get(&(place.to_owned(), fence)).is_some_and(|row| row.ended_ms.is_some())
    }

    /// Carries a statement out, whoever waits for it.
    async fn statement<T: Send + 'static>(
        self: Arc<Self>,
        server: usize,
        name: &'static str,
        work: impl FnOnce(&mut Tables) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        let world = self.world.clone();
        world.step();
        let gone = || LedgerError::Away("nobody listens".into());
        if is_until(world.state().sql.gone_until) {
            sleep(Duration::from_millis(world.draw(3))).await;
            return Err(gone());
        }
        let (there, back, is_mute) = world.sql_fate();
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            sleep(there).await;
            let frozen_until = world.state().sql.frozen_until;
            if let Some(until) = frozen_until.filter(|until| *until > Instant::now()) {
                sleep_until(until).await;
            }
            if is_until(world.state().sql.gone_until) {
                return;
            }
            world.step();
            let outcome = work(&mut self.tables());
            world.note((server, name), || {
                format!("s{server} -> sql: {name}{}", if is_mute { " (answer lost)" } else { "" })
            });
            sleep(back).await;
            if is_mute {
                sleep(Duration::from_secs(3)).await;
            }
            let _ = sender.send(outcome);
        });
        receiver.await.map_err(|_| gone())
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, LedgerError>>) -> Result<T, LedgerError> {
    timeout(TIMEOUT, work).await.unwrap_or_else(|_| Err(LedgerError::Away("the database took too long".into())))
}

impl Tables {
    /// `WRITE` with `ON_CONFLICT`: how many rows it has written.
    fn write(&mut self, epoch: u64, row: &JournalRow) -> usize {
        let is_newest = self.keyspace.as_ref().is_some_and(|keyspace| keyspace.epoch == epoch);
        if !is_newest && mends::is_on(Mend::EpochWrites) {
            return 0;
        }
        let key = (row.place.clone(), row.fence.as_u64());
        let new = Row { seq: row.seq, expires_ms: row.expires_ms, ended_ms: None, record: row.record.clone() };
        match self.journal.get_mut(&key) {
            Some(row) if row.ended_ms.is_some() => 0,
            Some(row) if row.seq >= new.seq && mends::is_on(Mend::JournalOrder) => 0,
            Some(row) => {
                *row = new;
                1
            }
            None => {
                self.journal.insert(key, new);
                1
            }
        }
    }

    /// `STATE`: the newest epoch, and whether the grant has ended if it has a row.
    fn state(&self, place: &str, fence: u64) -> Option<(u64, Option<bool>)> {
        let row = self.journal.get(&(place.to_owned(), fence));
        self.keyspace.as_ref().map(|keyspace| (keyspace.epoch, row.map(|row| row.ended_ms.is_some())))
    }

    fn end(&mut self, ended: EndedGrant, now_ms: u64) {
        let key = (ended.place, ended.fence.as_u64());
        if !mends::is_on(Mend::EndKept) {
            self.journal.remove(&key);
            return;
        }
        let fresh = Row { seq: 0, expires_ms: ended.until_ms, ended_ms: Some(now_ms), record: String::new() };
        let row = self.journal.entry(key).or_insert(fresh);
        if row.ended_ms.is_none() {
            row.ended_ms = Some(now_ms);
            row.record.clear();
        }
    }

    fn page(&self, now_ms: u64, after: &str) -> Vec<JournalRow> {
        let mut rows: Vec<JournalRow> = Vec::new();
        for ((place, fence), row) in &self.journal {
            if place.as_str() <= after {
                continue;
            }
            // The keys are in order: a later fence of the place follows.
            rows.pop_if(|before| before.place == *place);
            rows.push(JournalRow {
                place: place.clone(),
                fence: fence_of(*fence),
                seq: row.seq,
                expires_ms: row.expires_ms,
                record: row.record.clone(),
            });
        }
        rows.retain(|found| {
            let row = &self.journal[&(found.place.clone(), found.fence.as_u64())];
            row.ended_ms.unwrap_or(row.expires_ms) + RECENT_END.as_millis() as u64 > now_ms
        });
        rows.truncate(PAGE);
        rows
    }

    fn enter(&mut self, era: &Era, short_ms: u64) -> Entered {
        let epoch = era.epoch_us;
        let new = || KeyspaceRow {
            store: era.store.clone(),
            beat: 0,
            epoch,
            founded: epoch,
            short_ms,
            last_fence: 0,
            last_before: 0,
        };
        let keyspace = self.keyspace.get_or_insert_with(new);
        if keyspace.store != era.store {
            return Entered::Elsewhere;
        }
        if keyspace.epoch > epoch {
            // The transaction is rolled back.
            return Entered::Behind { epoch_us: keyspace.epoch };
        }
        if keyspace.epoch < epoch {
            keyspace.last_before = keyspace.last_fence;
        }
        keyspace.epoch = epoch;
        keyspace.short_ms = keyspace.short_ms.max(short_ms);
        match keyspace.founded == epoch && era.founded_us == epoch {
            true => Entered::First,
            false => Entered::Again { short: Duration::from_millis(keyspace.short_ms), last: keyspace.last_before },
        }
    }
}

fn fence_of(number: u64) -> Fence {
    number.to_string().parse().unwrap()
}

impl Ledger for Way {
    fn enter<'a>(&'a self, era: &'a Era, short: Duration) -> BoxFuture<'a, Result<Entered, LedgerError>> {
        let (era, short_ms) = (era.clone(), short.as_millis() as u64);
        let work = move |tables: &mut Tables| tables.enter(&era, short_ms);
        in_time(self.database.clone().statement(self.server, "enter", work)).boxed()
    }

    fn write<'a>(&'a self, era: &'a Era, row: &'a JournalRow) -> BoxFuture<'a, Result<Written, LedgerError>> {
        in_time(async move {
            let (epoch, new) = (era.epoch_us, row.clone());
            let work = move |tables: &mut Tables| tables.write(epoch, &new);
            if self.database.clone().statement(self.server, "write", work).await? > 0 {
                return Ok(Written::Recorded);
            }
            let (place, fence) = (row.place.clone(), row.fence.as_u64());
            let work = move |tables: &mut Tables| tables.state(&place, fence);
            match self.database.clone().statement(self.server, "state", work).await? {
                Some((newest, Some(false))) if newest == era.epoch_us => Ok(Written::Outdated),
                Some((newest, Some(true))) if newest == era.epoch_us => Ok(Written::Ended),
                _ => Err(LedgerError::Superseded),
            }
        })
        .boxed()
    }

    fn end<'a>(&'a self, grant: &'a EndedGrant, now_ms: u64) -> BoxFuture<'a, Result<(), LedgerError>> {
        let ended = grant.clone();
        let work = move |tables: &mut Tables| tables.end(ended, now_ms);
        in_time(self.database.clone().statement(self.server, "end", work)).boxed()
    }

    fn note_fence<'a>(&'a self, _: &'a str, fence: u64) -> BoxFuture<'a, Result<(), LedgerError>> {
        let work = move |tables: &mut Tables| {
            if let Some(keyspace) = &mut tables.keyspace {
                keyspace.last_fence = keyspace.last_fence.max(fence);
            }
        };
        in_time(self.database.clone().statement(self.server, "note_fence", work)).boxed()
    }

    fn page<'a>(
        &'a self,
        _: &'a str,
        now_ms: u64,
        after: &'a str,
    ) -> BoxFuture<'a, Result<Vec<JournalRow>, LedgerError>> {
        let after = after.to_owned();
        let work = move |tables: &mut Tables| tables.page(now_ms, &after);
        in_time(self.database.clone().statement(self.server, "page", work)).boxed()
    }

    /// The embedded keyspace alone hands over.
    fn hand_over<'a>(&'a self, _: &'a Era, _: Fence, _: Vec<JournalRow>) -> BoxFuture<'a, Result<(), LedgerError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn stores(&self) -> BoxFuture<'_, Result<Vec<StoreRow>, LedgerError>> {
        let work = |tables: &mut Tables| {
            let row = tables.keyspace.as_ref().map(|row| StoreRow {
                tag: LOCK_TAG.to_owned(),
                store: row.store.clone(),
                epoch_us: row.epoch,
                short: Duration::from_millis(row.short_ms),
                beat: row.beat,
            });
            row.into_iter().collect()
        };
        in_time(self.database.clone().statement(self.server, "stores", work)).boxed()
    }

    fn beat<'a>(&'a self, stores: &'a [&'a str]) -> BoxFuture<'a, Result<(), LedgerError>> {
        let stores: Vec<String> = stores.iter().map(|store| (*store).to_owned()).collect();
        let work = move |tables: &mut Tables| {
            if let Some(row) = tables.keyspace.as_mut().filter(|row| stores.contains(&row.store)) {
                row.beat += 1;
            }
        };
        in_time(self.database.clone().statement(self.server, "beat", work)).boxed()
    }

    fn claim<'a>(&'a self, row: &'a StoreRow, store: &'a str) -> BoxFuture<'a, Result<bool, LedgerError>> {
        let (seen, store) = (row.clone(), store.to_owned());
        let work = move |tables: &mut Tables| {
            let row = tables.keyspace.as_mut().filter(|row| row.store == seen.store && row.beat == seen.beat);
            let Some(row) = row else { return false };
            row.store = store;
            row.beat += 1;
            true
        };
        in_time(self.database.clone().statement(self.server, "claim", work)).boxed()
    }

    fn sweep(&self, before_ms: u64) -> BoxFuture<'_, Result<(), LedgerError>> {
        let work = move |tables: &mut Tables| {
            tables.journal.retain(|_, row| row.ended_ms.unwrap_or(row.expires_ms) >= before_ms);
        };
        in_time(self.database.clone().statement(self.server, "sweep", work)).boxed()
    }
}
