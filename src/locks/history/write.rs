//! Writes the history of locks (holders, times, ends) and the activity of accounts in the
//! last hour. A background task writes once a second and within limits: no request waits
//! for it, and under load most events are dropped.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::locks::{
    ActivityCounts, Locks, LocksError,
    history::buffer::AccountBatch,
    keys::{activity_key, history_index_key, history_key},
    requests::script,
};
use crate::{lock::AccountId, store::Script};

static WRITE_HISTORY: Script = script!("write_history");

impl Locks {
    /// Grants and ends of one account that one server writes per second.
    pub const BATCH_GRANTS_MAX: usize = 50;
    pub const BATCH_ENDS_MAX: usize = 200;
    /// Accounts and events that one thread buffers.
    pub const BUFFER_ACCOUNTS_MAX: usize = 10_000;
    pub const BUFFER_EVENTS_MAX: usize = 4_000;
    /// Locks of an account that have a history, and grants in the history of each.
    pub const HISTORY_NAMES_MAX: usize = 1_000;
    pub const HISTORY_GRANTS_MAX: usize = 20;
    /// The size of an account's history in bytes, with an allowance per lock name. The store
    /// needs at most a quarter more.
    pub const HISTORY_BYTES_MAX: usize = 1024 * 1024;
    /// How long a history is kept after its last event.
    pub const HISTORY_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

    const HISTORY_INTERVAL: Duration = Duration::from_secs(1);
    /// The number of grants and ends that one script writes.
    const EVENTS_PER_SCRIPT: usize = 16;
    /// The number of accounts that are written concurrently.
    const CONCURRENT_ACCOUNTS: usize = 8;
    /// The time limit of the last write when the server stops.
    const HISTORY_FLUSH_MAX: Duration = Duration::from_millis(500);

    /// Counts a refused acquire of an account.
    pub fn count_refused(&self, account: AccountId) {
        self.history_buffer.refused(account);
    }

    /// Counts a rate-limited request of an account.
    pub fn count_rate_limited(&self, account: AccountId) {
        self.history_buffer.rate_limited(account);
    }

    pub(in crate::locks) async fn write_history_forever(&self) {
        let mut tick = interval(Self::HISTORY_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.write_history().await;
        }
    }

    /// Writes all buffered events: the second write has the ends that waited for a round.
    pub(in crate::locks) async fn flush_history(&self) {
        let last = async {
            self.write_history().await;
            self.write_history().await;
        };
        if timeout(Self::HISTORY_FLUSH_MAX, last).await.is_err() {
            tracing::debug!("cannot write the history of the last second");
        }
    }

    async fn write_history(&self) {
        let write = |(account, batch): (AccountId, AccountBatch)| async move {
            if let Err(error) = self.write_batch(account, &batch).await {
                // Not retried: the history must not delay anything else.
                tracing::debug!(%error, "cannot write the history of an account");
            }
        };
        let mut batch: Vec<_> = self.history_buffer.take().into_iter().collect();
        if cfg!(feature = "simulation") {
            batch.sort_by_key(|(account, _)| *account);
        }
        stream::iter(batch).for_each_concurrent(Self::CONCURRENT_ACCOUNTS, write).await;
    }

    async fn write_batch(&self, account: AccountId, batch: &AccountBatch) -> Result<(), LocksError> {
        let account = account.to_string();
        let keys = [
            &*history_key(&self.store, &account),
            &history_index_key(&self.store, &account),
            &activity_key(&self.store, &account),
        ];
        let grants = batch.grants.iter().map(|event| ["granted", &event.lock_key, &event.text]);
        let ends = batch.earlier_ends.iter().map(|event| ["ended", &event.lock_key, &event.text]);
        let events: Vec<[&str; 3]> = grants.chain(ends).collect();
        // Without events one call still writes the counts.
        let mut counts = batch.counts;
        let mut parts = events.chunks(Self::EVENTS_PER_SCRIPT);
        let mut part = parts.next().unwrap_or_default();
        loop {
            let ActivityCounts { acquired, refused, limited } = std::mem::take(&mut counts);
            let numbers = [
                Self::HISTORY_NAMES_MAX.to_string(),
                Self::HISTORY_GRANTS_MAX.to_string(),
                Self::HISTORY_BYTES_MAX.to_string(),
                Self::HISTORY_KEPT.as_millis().to_string(),
                if batch.is_lossy { "1".into() } else { String::new() },
                acquired.to_string(),
                refused.to_string(),
                limited.to_string(),
            ];
            let args: Vec<&str> = numbers.iter().map(String::as_str).chain(part.iter().flatten().copied()).collect();
            self.store.eval(&WRITE_HISTORY, &keys, &args).await?;
            let Some(next) = parts.next() else { return Ok(()) };
            part = next;
        }
    }
}
