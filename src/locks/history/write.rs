//! What became of locks, on record for people: who held one when, how it ended,
//! and how much an account did in the last hour. It is written beside the
//! requests, once a second, and bounded: no request waits for it, and under load
//! most is left out.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::locks::{
    Counts, Locks, LocksError,
    history::recorder::Noted,
    keys::{activity_key, history_key, recorded_key},
    requests::script,
};
use crate::{lock::AccountId, store::Script};

static RECORD: Script = script!("write_history");

impl Locks {
    /// How many grants and ends of an account are put on record in a second, by
    /// one server.
    pub const RECORDED_GRANTS_MAX: usize = 50;
    pub const RECORDED_ENDS_MAX: usize = 200;
    /// Of how many accounts, and how many in all, by one thread.
    pub const RECORDED_ACCOUNTS_MAX: usize = 10_000;
    pub const RECORDED_EVENTS_MAX: usize = 4_000;
    /// Of how many locks of an account a record is kept, and how many grants of
    /// each.
    pub const HISTORY_NAMES_MAX: usize = 1_000;
    pub const HISTORY_GRANTS_MAX: usize = 20;
    /// How many bytes all of that has, with what a name takes beside. What the store
    /// takes for it is a quarter more at most.
    pub const HISTORY_BYTES_MAX: usize = 1024 * 1024;
    /// For how long after the last one.
    pub const HISTORY_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

    const RECORD_INTERVAL: Duration = Duration::from_secs(1);
    /// How many grants and ends one script writes.
    const RECORDED_AT_A_TIME: usize = 16;
    /// How many accounts are written for at once.
    const RECORDED_AT_ONCE: usize = 8;
    /// How long the last round may take when the server stops.
    const LAST_RECORD_MAX: Duration = Duration::from_millis(500);

    /// Counts a request of an account that was refused a lock.
    pub fn note_refused(&self, account: AccountId) {
        self.recorder.refused(account);
    }

    /// Counts a request of an account that was over its rate.
    pub fn note_limited(&self, account: AccountId) {
        self.recorder.limited(account);
    }

    pub(in crate::locks) async fn record_always(&self) {
        let mut tick = interval(Self::RECORD_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.write_record().await;
        }
    }

    /// Writes what there is left, and the ends that wait for their round.
    pub(in crate::locks) async fn finish_record(&self) {
        let last = async {
            self.write_record().await;
            self.write_record().await;
        };
        if timeout(Self::LAST_RECORD_MAX, last).await.is_err() {
            tracing::debug!("the last second is not on record");
        }
    }

    async fn write_record(&self) {
        let write = |(account, noted): (AccountId, Noted)| async move {
            if let Err(error) = self.write_noted(account, &noted).await {
                // It is lost: what people read must not hold up anything.
                tracing::debug!(%error, "what became of locks is not on record");
            }
        };
        let mut noted: Vec<_> = self.recorder.take().into_iter().collect();
        if cfg!(feature = "simulation") {
            noted.sort_by_key(|(account, _)| *account);
        }
        stream::iter(noted).for_each_concurrent(Self::RECORDED_AT_ONCE, write).await;
    }

    async fn write_noted(&self, account: AccountId, noted: &Noted) -> Result<(), LocksError> {
        let account = account.to_string();
        let keys = [
            &*history_key(&self.store, &account),
            &recorded_key(&self.store, &account),
            &activity_key(&self.store, &account),
        ];
        let grants = noted.grants.iter().map(|event| ["granted", &event.lock_key, &event.text]);
        let ends = noted.earlier_ends.iter().map(|event| ["ended", &event.lock_key, &event.text]);
        let events: Vec<[&str; 3]> = grants.chain(ends).collect();
        // There may be none, and something to be counted all the same.
        let mut counts = noted.counts;
        let mut parts = events.chunks(Self::RECORDED_AT_A_TIME);
        let mut part = parts.next().unwrap_or_default();
        loop {
            let Counts { acquired, refused, limited } = std::mem::take(&mut counts);
            let numbers = [
                Self::HISTORY_NAMES_MAX.to_string(),
                Self::HISTORY_GRANTS_MAX.to_string(),
                Self::HISTORY_BYTES_MAX.to_string(),
                Self::HISTORY_KEPT.as_millis().to_string(),
                if noted.is_lossy { "1".into() } else { String::new() },
                acquired.to_string(),
                refused.to_string(),
                limited.to_string(),
            ];
            let args: Vec<&str> = numbers.iter().map(String::as_str).chain(part.iter().flatten().copied()).collect();
            self.store.run(&RECORD, &keys, &args).await?;
            let Some(next) = parts.next() else { return Ok(()) };
            part = next;
        }
    }
}
