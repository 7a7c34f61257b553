//! What became of locks, on record for people: who held one when, how it ended,
//! and how much an account did in the last hour. It is written beside the
//! requests, once a second, and bounded: no request waits for it, and under load
//! most is left out.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    AcquireRequest, Counts, Ending, Locks, LocksError,
    keys::{activity_key, history_key, recorded_key},
    request::script,
};
use crate::{
    keyspace::Script,
    lock::{AccountId, Fence, Grant},
};

static RECORD: Script = script!("record");

/// What is noted until it is written. Each thread has a part of its own, as far
/// as there are enough: what all requests have to lock holds all of them up.
#[derive(Default)]
pub(super) struct Recorder([Mutex<Round>; Recorder::PARTS]);

#[derive(Default)]
struct Round {
    accounts: HashMap<AccountId, Noted>,
    /// Grants and ends of all accounts.
    events: usize,
}

#[derive(Default)]
struct Noted {
    counts: Counts,
    grants: Vec<Event>,
    ends: Vec<Event>,
    /// What has waited for one round: the grant that has ended may be noted by
    /// another server.
    earlier_ends: Vec<Event>,
    is_lossy: bool,
}

struct Event {
    place: String,
    text: String,
}

impl Recorder {
    const PARTS: usize = 16;

    /// The part of the thread that asks.
    fn part(&self) -> MutexGuard<'_, Round> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        let [first, ..] = &self.0;
        let part = self.0.get(THREAD.with(|thread| thread % Self::PARTS)).unwrap_or(first);
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn granted(&self, request: &AcquireRequest, place: &str, grant: &Grant) {
        let acquired_ms = grant.expires_at.as_millisecond() - grant.lease.as_ms() as i64;
        self.note(request.claimant.account, |noted, is_full| {
            noted.counts.acquired += 1;
            if is_full || noted.grants.len() >= Locks::RECORDED_GRANTS_MAX {
                noted.is_lossy = true;
                return 0;
            }
            let (fence, owner) = (grant.fence, request.claimant.owner_text());
            let text =
                format!("{fence}\n{acquired_ms}\n\n\n{owner}\n{}\n{}", request.label.as_str(), request.note.as_str());
            noted.grants.push(Event { place: place.to_owned(), text });
            1
        });
    }

    pub(super) fn ended(&self, account: AccountId, place: &str, fence: Fence, how: Ending) {
        self.note(account, |noted, is_full| {
            if is_full || noted.ends.len() >= Locks::RECORDED_ENDS_MAX {
                noted.is_lossy = true;
                return 0;
            }
            let text = format!("{fence}\n{}\n{}", Timestamp::now().as_millisecond(), how.word());
            noted.ends.push(Event { place: place.to_owned(), text });
            1
        });
    }

    pub(super) fn refused(&self, account: AccountId) {
        self.note(account, |noted, _| {
            noted.counts.refused += 1;
            0
        });
    }

    pub(super) fn limited(&self, account: AccountId) {
        self.note(account, |noted, _| {
            noted.counts.limited += 1;
            0
        });
    }

    /// Notes something of an account; `what` is told whether there is no room for
    /// more events, and says how many it has added.
    fn note(&self, account: AccountId, what: impl FnOnce(&mut Noted, bool) -> usize) {
        let mut round = self.part();
        let is_full = round.events >= Locks::RECORDED_EVENTS_MAX;
        if round.accounts.len() >= Locks::RECORDED_ACCOUNTS_MAX && !round.accounts.contains_key(&account) {
            return;
        }
        round.events += what(round.accounts.entry(account).or_default(), is_full);
    }

    /// Ends the round: what is to be written now.
    fn take(&self) -> HashMap<AccountId, Noted> {
        let mut taken = HashMap::<AccountId, Noted>::new();
        for part in &self.0 {
            let mut round = part.lock().unwrap_or_else(PoisonError::into_inner);
            let Round { accounts, .. } = std::mem::take(&mut *round);
            for (account, mut noted) in accounts {
                let later = std::mem::take(&mut noted.ends);
                if !later.is_empty() {
                    round.accounts.entry(account).or_default().earlier_ends = later;
                }
                taken.entry(account).or_default().add(noted);
            }
        }
        taken
    }
}

impl Noted {
    /// Adds what another thread has noted of the same account, as far as it fits.
    fn add(&mut self, other: Self) {
        let Counts { acquired, refused, limited } = other.counts;
        self.counts.acquired += acquired;
        self.counts.refused += refused;
        self.counts.limited += limited;
        self.grants.extend(other.grants);
        self.earlier_ends.extend(other.earlier_ends);
        self.is_lossy |= other.is_lossy
            || self.grants.len() > Locks::RECORDED_GRANTS_MAX
            || self.earlier_ends.len() > Locks::RECORDED_ENDS_MAX;
        self.grants.truncate(Locks::RECORDED_GRANTS_MAX);
        self.earlier_ends.truncate(Locks::RECORDED_ENDS_MAX);
    }
}

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
    /// For how long after the last one.
    pub const HISTORY_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

    const RECORD_INTERVAL: Duration = Duration::from_secs(1);
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

    pub(super) async fn record_always(&self) {
        let mut tick = interval(Self::RECORD_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.write_record().await;
        }
    }

    /// Writes what there is left, and the ends that wait for their round.
    pub(super) async fn finish_record(&self) {
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
        stream::iter(self.recorder.take()).for_each_concurrent(Self::RECORDED_AT_ONCE, write).await;
    }

    async fn write_noted(&self, account: AccountId, noted: &Noted) -> Result<(), LocksError> {
        let account = account.to_string();
        let keys = [
            &*history_key(&self.keyspace, &account),
            &recorded_key(&self.keyspace, &account),
            &activity_key(&self.keyspace, &account),
        ];
        let Counts { acquired, refused, limited } = noted.counts;
        let numbers = [
            Self::HISTORY_NAMES_MAX.to_string(),
            Self::HISTORY_GRANTS_MAX.to_string(),
            Self::HISTORY_KEPT.as_millis().to_string(),
            if noted.is_lossy { "1".into() } else { String::new() },
            acquired.to_string(),
            refused.to_string(),
            limited.to_string(),
        ];
        let grants = noted.grants.iter().flat_map(|event| ["granted", &event.place, &event.text]);
        let ends = noted.earlier_ends.iter().flat_map(|event| ["ended", &event.place, &event.text]);
        let args: Vec<&str> = numbers.iter().map(String::as_str).chain(grants).chain(ends).collect();
        self.keyspace.run(&RECORD, &keys, &args).await?;
        Ok(())
    }
}
