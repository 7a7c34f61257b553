//! The SQL database: two tables with the statements of `src/accounts/journal.rs`, each of
//! which is carried out as a whole, sooner or later, and answered or not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use lockable::{
    lock::{
        EndedGrant, Entered, Epoch, FencingToken, Journal, JournalError, JournalRow, RECENT_END, StoreRow, Written,
    },
    mends::{self, Mend},
    store::LOCK_TAG,
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
    store: Option<StoreRecord>,
    journal: BTreeMap<(String, u64), Row>,
}

struct StoreRecord {
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
    pub fn has_ended(&self, lock_key: &str, fence: u64) -> bool {
        let tables = self.tables();
        tables.journal.get(&(lock_key.to_owned(), fence)).is_some_and(|row| row.ended_ms.is_some())
    }

    /// Carries a statement out, whoever waits for it.
    async fn statement<T: Send + 'static>(
        self: Arc<Self>,
        server: usize,
        name: &'static str,
        work: impl FnOnce(&mut Tables) -> T + Send + 'static,
    ) -> Result<T, JournalError> {
        let world = self.world.clone();
        world.step();
        let gone = || JournalError::Away("nobody listens".into());
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

async fn in_time<T>(work: impl Future<Output = Result<T, JournalError>>) -> Result<T, JournalError> {
    timeout(TIMEOUT, work).await.unwrap_or_else(|_| Err(JournalError::Away("the database took too long".into())))
}

impl Tables {
    /// `WRITE` with `ON_CONFLICT`: how many rows it has written.
    fn write(&mut self, epoch: u64, row: &JournalRow) -> usize {
        let is_newest = self.store.as_ref().is_some_and(|store| store.epoch == epoch);
        if !is_newest && mends::is_on(Mend::EpochWrites) {
            return 0;
        }
        let key = (row.lock_key.clone(), row.fence.as_u64());
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
    fn state(&self, lock_key: &str, fence: u64) -> Option<(u64, Option<bool>)> {
        let row = self.journal.get(&(lock_key.to_owned(), fence));
        self.store.as_ref().map(|store| (store.epoch, row.map(|row| row.ended_ms.is_some())))
    }

    fn end(&mut self, ended: EndedGrant, now_ms: u64) {
        let key = (ended.lock_key, ended.fence.as_u64());
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
        for ((lock_key, fence), row) in &self.journal {
            if lock_key.as_str() <= after {
                continue;
            }
            // The keys are in order: a later fence of the lock key follows.
            rows.pop_if(|before| before.lock_key == *lock_key);
            rows.push(JournalRow {
                lock_key: lock_key.clone(),
                fence: fence_of(*fence),
                seq: row.seq,
                expires_ms: row.expires_ms,
                record: row.record.clone(),
            });
        }
        rows.retain(|found| {
            let row = &self.journal[&(found.lock_key.clone(), found.fence.as_u64())];
            row.ended_ms.unwrap_or(row.expires_ms) + RECENT_END.as_millis() as u64 > now_ms
        });
        rows.truncate(PAGE);
        rows
    }

    fn enter(&mut self, epoch: &Epoch, short_ms: u64) -> Entered {
        let epoch_us = epoch.epoch_us;
        let new = || StoreRecord {
            store: epoch.store.clone(),
            beat: 0,
            epoch: epoch_us,
            founded: epoch_us,
            short_ms,
            last_fence: 0,
            last_before: 0,
        };
        let store = self.store.get_or_insert_with(new);
        if store.store != epoch.store {
            return Entered::Elsewhere;
        }
        if store.epoch > epoch_us {
            // The transaction is rolled back.
            return Entered::Behind { epoch_us: store.epoch };
        }
        if store.epoch < epoch_us {
            store.last_before = store.last_fence;
        }
        store.epoch = epoch_us;
        store.short_ms = store.short_ms.max(short_ms);
        match store.founded == epoch_us && epoch.founded_us == epoch_us {
            true => Entered::First,
            false => Entered::Again { short: Duration::from_millis(store.short_ms), last: store.last_before },
        }
    }
}

fn fence_of(number: u64) -> FencingToken {
    number.to_string().parse().unwrap()
}

impl Journal for Way {
    fn enter<'a>(&'a self, epoch: &'a Epoch, short: Duration) -> BoxFuture<'a, Result<Entered, JournalError>> {
        let (epoch, short_ms) = (epoch.clone(), short.as_millis() as u64);
        let work = move |tables: &mut Tables| tables.enter(&epoch, short_ms);
        in_time(self.database.clone().statement(self.server, "enter", work)).boxed()
    }

    fn write<'a>(&'a self, epoch: &'a Epoch, row: &'a JournalRow) -> BoxFuture<'a, Result<Written, JournalError>> {
        in_time(async move {
            let (epoch, new) = (epoch.epoch_us, row.clone());
            let work = move |tables: &mut Tables| tables.write(epoch, &new);
            if self.database.clone().statement(self.server, "write", work).await? > 0 {
                return Ok(Written::Recorded);
            }
            let (lock_key, fence) = (row.lock_key.clone(), row.fence.as_u64());
            let work = move |tables: &mut Tables| tables.state(&lock_key, fence);
            match self.database.clone().statement(self.server, "state", work).await? {
                Some((newest, Some(false))) if newest == epoch => Ok(Written::Outdated),
                Some((newest, Some(true))) if newest == epoch => Ok(Written::Ended),
                _ => Err(JournalError::Superseded),
            }
        })
        .boxed()
    }

    fn end<'a>(&'a self, grant: &'a EndedGrant, now_ms: u64) -> BoxFuture<'a, Result<(), JournalError>> {
        let ended = grant.clone();
        let work = move |tables: &mut Tables| tables.end(ended, now_ms);
        in_time(self.database.clone().statement(self.server, "end", work)).boxed()
    }

    fn note_fence<'a>(&'a self, _: &'a str, fence: u64) -> BoxFuture<'a, Result<(), JournalError>> {
        let work = move |tables: &mut Tables| {
            if let Some(store) = &mut tables.store {
                store.last_fence = store.last_fence.max(fence);
            }
        };
        in_time(self.database.clone().statement(self.server, "note_fence", work)).boxed()
    }

    fn page<'a>(
        &'a self,
        _: &'a str,
        now_ms: u64,
        after: &'a str,
    ) -> BoxFuture<'a, Result<Vec<JournalRow>, JournalError>> {
        let after = after.to_owned();
        let work = move |tables: &mut Tables| tables.page(now_ms, &after);
        in_time(self.database.clone().statement(self.server, "page", work)).boxed()
    }

    /// The embedded store alone hands over.
    fn hand_over<'a>(
        &'a self,
        _: &'a Epoch,
        _: FencingToken,
        _: Vec<JournalRow>,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn stores(&self) -> BoxFuture<'_, Result<Vec<StoreRow>, JournalError>> {
        let work = |tables: &mut Tables| {
            let row = tables.store.as_ref().map(|row| StoreRow {
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

    fn beat<'a>(&'a self, stores: &'a [&'a str]) -> BoxFuture<'a, Result<(), JournalError>> {
        let stores: Vec<String> = stores.iter().map(|store| (*store).to_owned()).collect();
        let work = move |tables: &mut Tables| {
            if let Some(row) = tables.store.as_mut().filter(|row| stores.contains(&row.store)) {
                row.beat += 1;
            }
        };
        in_time(self.database.clone().statement(self.server, "beat", work)).boxed()
    }

    fn claim<'a>(&'a self, row: &'a StoreRow, store: &'a str) -> BoxFuture<'a, Result<bool, JournalError>> {
        let (seen, store) = (row.clone(), store.to_owned());
        let work = move |tables: &mut Tables| {
            let row = tables.store.as_mut().filter(|row| row.store == seen.store && row.beat == seen.beat);
            let Some(row) = row else { return false };
            row.store = store;
            row.beat += 1;
            true
        };
        in_time(self.database.clone().statement(self.server, "claim", work)).boxed()
    }

    fn sweep(&self, before_ms: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        let work = move |tables: &mut Tables| {
            tables.journal.retain(|_, row| row.ended_ms.unwrap_or(row.expires_ms) >= before_ms);
        };
        in_time(self.database.clone().statement(self.server, "sweep", work)).boxed()
    }
}
