//! The SQL database: two tables, and the statements of `src/accounts/journal.rs`. Each statement
//! is executed atomically, with a delay, and its answer may be lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use lockable::{
    lock::{
        EndedGrant, Epoch, EpochStart, FencingToken, Journal, JournalError, JournalRow, RECENT_END, StoreRow,
        WriteOutcome,
    },
    safeguards::{self, Safeguard},
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
    /// The row of the only tag.
    store: Option<StoreRecord>,
    journal: BTreeMap<(String, u64), Row>,
}

struct StoreRecord {
    store: String,
    heartbeats: u64,
    epoch: u64,
    /// The first epoch of this store.
    founded: u64,
    /// The longest lease that any server does not journal.
    short_ms: u64,
    last_fence: u64,
    /// `last_fence` at the beginning of the current epoch.
    last_before: u64,
}

struct Row {
    seq: u64,
    expires_ms: u64,
    /// The time of the end by the store's clock; `None` while the grant has not ended.
    ended_ms: Option<u64>,
    stored_grant: String,
}

pub struct Database {
    world: Arc<World>,
    tables: Mutex<Tables>,
    /// The ends that servers have sent: lock key and fence.
    received_ends: Mutex<BTreeSet<(String, u64)>>,
}

/// One server's client of the database.
pub struct SqlClient {
    pub database: Arc<Database>,
    pub server: usize,
}

impl Database {
    pub fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self { world, tables: Mutex::default(), received_ends: Mutex::default() })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    /// Whether the journal has recorded the end of a grant.
    pub fn has_ended(&self, lock_key: &str, fence: u64) -> bool {
        let tables = self.tables();
        tables.journal.get(&(lock_key.to_owned(), fence)).is_some_and(|row| row.ended_ms.is_some())
    }

    /// Whether a server has sent the end of a grant, although it may not be executed.
    pub fn has_received_end(&self, lock_key: &str, fence: u64) -> bool {
        self.received_ends.lock().unwrap().contains(&(lock_key.to_owned(), fence))
    }

    /// Executes a statement, even if the caller stops waiting for it.
    async fn statement<T: Send + 'static>(
        self: Arc<Self>,
        server: usize,
        name: &'static str,
        statement: impl FnOnce(&mut Tables) -> T + Send + 'static,
    ) -> Result<T, JournalError> {
        let world = self.world.clone();
        world.step();
        let unavailable = || JournalError::Unavailable("connection refused".into());
        if is_until(world.state().sql.down_until) {
            sleep(Duration::from_millis(world.draw(3))).await;
            return Err(unavailable());
        }
        let (request_delay, response_delay, is_unanswered) = world.sql_delivery();
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            sleep(request_delay).await;
            let frozen_until = world.state().sql.frozen_until;
            if let Some(until) = frozen_until.filter(|until| *until > Instant::now()) {
                sleep_until(until).await;
            }
            if is_until(world.state().sql.down_until) {
                return;
            }
            world.step();
            let outcome = statement(&mut self.tables());
            world.note((server, name), || {
                format!("s{server} -> sql: {name}{}", if is_unanswered { " (answer lost)" } else { "" })
            });
            sleep(response_delay).await;
            if is_unanswered {
                sleep(Duration::from_secs(3)).await;
            }
            let _ = sender.send(outcome);
        });
        receiver.await.map_err(|_| unavailable())
    }
}

async fn with_timeout<T>(statement: impl Future<Output = Result<T, JournalError>>) -> Result<T, JournalError> {
    timeout(TIMEOUT, statement)
        .await
        .unwrap_or_else(|_| Err(JournalError::Unavailable("the database took too long".into())))
}

impl Tables {
    /// `WRITE` with `ON_CONFLICT`. Returns the number of written rows.
    fn write(&mut self, epoch: u64, row: &JournalRow) -> usize {
        let is_newest = self.store.as_ref().is_some_and(|store| store.epoch == epoch);
        if !is_newest && safeguards::is_on(Safeguard::EpochWrites) {
            return 0;
        }
        let key = (row.lock_key.clone(), row.fence.as_u64());
        let new =
            Row { seq: row.seq, expires_ms: row.expires_ms, ended_ms: None, stored_grant: row.stored_grant.clone() };
        match self.journal.get_mut(&key) {
            Some(row) if row.ended_ms.is_some() => 0,
            Some(row) if row.seq >= new.seq && safeguards::is_on(Safeguard::JournalOrder) => 0,
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

    /// `STATE`. Returns the newest epoch, and whether the grant has ended, if it has a row.
    fn state(&self, lock_key: &str, fence: u64) -> Option<(u64, Option<bool>)> {
        let row = self.journal.get(&(lock_key.to_owned(), fence));
        self.store.as_ref().map(|store| (store.epoch, row.map(|row| row.ended_ms.is_some())))
    }

    fn end(&mut self, ended: EndedGrant, now_ms: u64) {
        let key = (ended.lock_key, ended.fence.as_u64());
        if !safeguards::is_on(Safeguard::EndIsFinal) {
            self.journal.remove(&key);
            return;
        }
        let new = Row { seq: 0, expires_ms: ended.until_ms, ended_ms: Some(now_ms), stored_grant: String::new() };
        let row = self.journal.entry(key).or_insert(new);
        if row.ended_ms.is_none() {
            row.ended_ms = Some(now_ms);
            row.stored_grant.clear();
        }
    }

    fn page(&self, now_ms: u64, after: &str) -> Vec<JournalRow> {
        let mut rows: Vec<JournalRow> = Vec::new();
        for ((lock_key, fence), row) in &self.journal {
            if lock_key.as_str() <= after {
                continue;
            }
            // The keys are sorted: a row with a later fence of the same lock key replaces the earlier.
            rows.pop_if(|before| before.lock_key == *lock_key);
            rows.push(JournalRow {
                lock_key: lock_key.clone(),
                fence: fence_of(*fence),
                seq: row.seq,
                expires_ms: row.expires_ms,
                stored_grant: row.stored_grant.clone(),
            });
        }
        rows.retain(|found| {
            let row = &self.journal[&(found.lock_key.clone(), found.fence.as_u64())];
            row.ended_ms.unwrap_or(row.expires_ms) + RECENT_END.as_millis() as u64 > now_ms
        });
        rows.truncate(PAGE);
        rows
    }

    fn begin_epoch(&mut self, epoch: &Epoch, short_ms: u64) -> EpochStart {
        let epoch_us = epoch.epoch_us;
        let new = || StoreRecord {
            store: epoch.store.clone(),
            heartbeats: 0,
            epoch: epoch_us,
            founded: epoch_us,
            short_ms,
            last_fence: 0,
            last_before: 0,
        };
        let store = self.store.get_or_insert_with(new);
        if store.store != epoch.store {
            return EpochStart::OtherStore;
        }
        if store.epoch > epoch_us {
            // The real transaction is rolled back here.
            return EpochStart::Behind { epoch_us: store.epoch };
        }
        if store.epoch < epoch_us {
            store.last_before = store.last_fence;
        }
        store.epoch = epoch_us;
        store.short_ms = store.short_ms.max(short_ms);
        match store.founded == epoch_us && epoch.founded_us == epoch_us {
            true => EpochStart::First,
            false => EpochStart::MayHaveGrants {
                journal_above: Duration::from_millis(store.short_ms),
                last_fence: store.last_before,
            },
        }
    }
}

fn fence_of(number: u64) -> FencingToken {
    number.to_string().parse().unwrap()
}

impl Journal for SqlClient {
    fn begin_epoch<'a>(&'a self, epoch: &'a Epoch, short: Duration) -> BoxFuture<'a, Result<EpochStart, JournalError>> {
        let (epoch, short_ms) = (epoch.clone(), short.as_millis() as u64);
        let statement = move |tables: &mut Tables| tables.begin_epoch(&epoch, short_ms);
        with_timeout(self.database.clone().statement(self.server, "begin_epoch", statement)).boxed()
    }

    fn write<'a>(&'a self, epoch: &'a Epoch, row: &'a JournalRow) -> BoxFuture<'a, Result<WriteOutcome, JournalError>> {
        with_timeout(async move {
            let (epoch, new) = (epoch.epoch_us, row.clone());
            let statement = move |tables: &mut Tables| tables.write(epoch, &new);
            if self.database.clone().statement(self.server, "write", statement).await? > 0 {
                return Ok(WriteOutcome::Recorded);
            }
            let (lock_key, fence) = (row.lock_key.clone(), row.fence.as_u64());
            let statement = move |tables: &mut Tables| tables.state(&lock_key, fence);
            match self.database.clone().statement(self.server, "state", statement).await? {
                Some((newest, Some(false))) if newest == epoch => Ok(WriteOutcome::Outdated),
                Some((newest, Some(true))) if newest == epoch => Ok(WriteOutcome::Ended),
                _ => Err(JournalError::Superseded),
            }
        })
        .boxed()
    }

    fn end<'a>(&'a self, grant: &'a EndedGrant, now_ms: u64) -> BoxFuture<'a, Result<(), JournalError>> {
        let ended = grant.clone();
        self.database.received_ends.lock().unwrap().insert((ended.lock_key.clone(), ended.fence.as_u64()));
        let statement = move |tables: &mut Tables| tables.end(ended, now_ms);
        with_timeout(self.database.clone().statement(self.server, "end", statement)).boxed()
    }

    fn record_last_fence<'a>(&'a self, _: &'a str, fence: u64) -> BoxFuture<'a, Result<(), JournalError>> {
        let statement = move |tables: &mut Tables| {
            if let Some(store) = &mut tables.store {
                store.last_fence = store.last_fence.max(fence);
            }
        };
        with_timeout(self.database.clone().statement(self.server, "record_last_fence", statement)).boxed()
    }

    fn page<'a>(
        &'a self,
        _: &'a str,
        now_ms: u64,
        after: &'a str,
    ) -> BoxFuture<'a, Result<Vec<JournalRow>, JournalError>> {
        let after = after.to_owned();
        let statement = move |tables: &mut Tables| tables.page(now_ms, &after);
        with_timeout(self.database.clone().statement(self.server, "page", statement)).boxed()
    }

    /// Only the embedded store hands over.
    fn hand_over_epoch<'a>(
        &'a self,
        _: &'a Epoch,
        _: FencingToken,
        _: Vec<JournalRow>,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn stores(&self) -> BoxFuture<'_, Result<Vec<StoreRow>, JournalError>> {
        let statement = |tables: &mut Tables| {
            let row = tables.store.as_ref().map(|row| StoreRow {
                tag: LOCK_TAG.to_owned(),
                store: row.store.clone(),
                epoch_us: row.epoch,
                journal_above: Duration::from_millis(row.short_ms),
                heartbeats: row.heartbeats,
            });
            row.into_iter().collect()
        };
        with_timeout(self.database.clone().statement(self.server, "stores", statement)).boxed()
    }

    fn heartbeat<'a>(&'a self, stores: &'a [&'a str]) -> BoxFuture<'a, Result<(), JournalError>> {
        let stores: Vec<String> = stores.iter().map(|store| (*store).to_owned()).collect();
        let statement = move |tables: &mut Tables| {
            if let Some(row) = tables.store.as_mut().filter(|row| stores.contains(&row.store)) {
                row.heartbeats += 1;
            }
        };
        with_timeout(self.database.clone().statement(self.server, "heartbeat", statement)).boxed()
    }

    fn claim<'a>(&'a self, row: &'a StoreRow, store: &'a str) -> BoxFuture<'a, Result<bool, JournalError>> {
        let (seen, store) = (row.clone(), store.to_owned());
        let statement = move |tables: &mut Tables| {
            let row = tables.store.as_mut().filter(|row| row.store == seen.store && row.heartbeats == seen.heartbeats);
            let Some(row) = row else { return false };
            row.store = store;
            row.heartbeats += 1;
            true
        };
        with_timeout(self.database.clone().statement(self.server, "claim", statement)).boxed()
    }

    fn sweep(&self, before_ms: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        let statement = move |tables: &mut Tables| {
            tables.journal.retain(|_, row| row.ended_ms.unwrap_or(row.expires_ms) >= before_ms);
        };
        with_timeout(self.database.clone().statement(self.server, "sweep", statement)).boxed()
    }
}
