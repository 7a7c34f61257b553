//! The lock service: one function per operation. The scripts in `lua/` make every
//! decision about a lock; this module builds their arguments and decodes their replies.

mod acquire;
mod grant_codec;
mod heartbeat;
mod history;
mod inspect;
mod journal;
mod keys;
mod list;
mod merged_page;
mod queue;
mod recovery;
mod release;
mod requests;
mod revert;
mod script_args;
mod settled;
mod stall;
mod store_watch;
mod usage;

use std::{
    ops::Deref,
    sync::{Arc, LazyLock},
    time::Duration,
};

use metrics::{Counter, counter};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;

use crate::{
    lock::{Attempt, Journal, JournalError, Lease},
    store::{BadReply, Reply, Shard, Store, StoreError},
};

pub use crate::store::StoreMatch;

pub use self::{
    acquire::AcquireProgress,
    history::{ActivityCounts, GrantEnd, History, PastGrant},
    inspect::UnjournaledEnd,
    list::{Cursor, ListRequest, Listing, LockPage, ReadOutcome, Usage},
    queue::{QueueState, Reverted, UnconfirmedOutcome, Waiter, WaiterList},
    requests::{
        AcquireRequest, BreakRequest, Claimant, HeartbeatRequest, LockKey, ReleaseRequest, RenewedLease, WithRate,
    },
    revert::PendingRevert,
};
use self::{
    history::buffer::HistoryBuffer, keys::server_channel, queue::registry::WaitRegistry, stall::StallGuard,
    usage::UsageCache,
};

/// The locks of a store, and the requests that wait for them in this server. Cheap to
/// clone: a background task that reverts an acquire owns a clone.
#[derive(Clone)]
pub struct Locks(Arc<LocksInner>);

/// State that all clones share.
pub struct LocksInner {
    store: Store,
    journal: Arc<dyn Journal>,
    /// The journal records leases longer than this.
    journal_above: Lease,
    revert_permits: Semaphore,
    background_tasks: TaskTracker,
    stall_guard: StallGuard,
    waiters: Arc<WaitRegistry>,
    history_buffer: HistoryBuffer,
    /// Usage of accounts in the shards of a cluster.
    usage_cache: UsageCache,
    /// The pub/sub channel on which this server receives messages about its waiters; new
    /// with each start.
    channel: String,
}

impl Deref for Locks {
    type Target = LocksInner;

    fn deref(&self) -> &LocksInner {
        &self.0
    }
}

/// The statuses that scripts return for lock requests, as static label values of the
/// request counter.
const OUTCOMES: &[&str] = &[
    "granted",
    "again",
    "busy",
    "cancelled",
    "held",
    "queued",
    "recovering",
    "unsettled",
    "replaced",
    "gone",
    "over_quota",
    "too_many_waiting",
    "rate_limited",
    "late",
    "renewed",
    "released",
    "not_held",
    "held_by_another",
    "broken",
];

fn outcomes(operation: &'static str, outcome: &'static str) -> Counter {
    counter!("lockable_lock_requests_total", "operation" => operation, "outcome" => outcome)
}

/// Why an operation has no outcome. The store may have executed the command unless
/// [`is_sure`](Self::is_sure) returns `true`.
#[derive(Debug, thiserror::Error)]
pub enum LocksError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The command reached the store after its deadline, and changed nothing.
    #[error("the command reached the store after its deadline and changed nothing")]
    TooLate,
    #[error(transparent)]
    Reply(#[from] BadReply),
    /// The journal did not record a long lease.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A recovery has not compared the grant with the journal yet; the claimant may hold
    /// the lock.
    #[error("a recovery has not restored all grants yet")]
    Unsettled,
    /// The database is not known to name this store. Nothing was done.
    #[error("the database names another store")]
    Foreign,
    /// This server's limit of queued requests is reached. Nothing was done.
    #[error("this server's limit of queued requests is reached")]
    Full,
}

impl Locks {
    /// How many unanswered attempts are reverted at a time. Grants of further attempts
    /// stay until their leases expire.
    pub const REVERTS_MAX: usize = 10_000;

    /// How long a stopping server waits for reverts.
    const FINISH_MAX: Duration = Duration::from_secs(2);

    /// Creates the service for a store. At most `waiters_max` requests wait at once in this
    /// server; the journal records leases longer than `journal_above`.
    pub fn new(store: Store, journal: Arc<dyn Journal>, journal_above: Lease, waiters_max: usize) -> Self {
        Self(Arc::new(LocksInner {
            revert_permits: Semaphore::new(Self::REVERTS_MAX),
            background_tasks: TaskTracker::new(),
            stall_guard: StallGuard::default(),
            waiters: WaitRegistry::new(waiters_max),
            history_buffer: HistoryBuffer::default(),
            usage_cache: UsageCache::default(),
            channel: server_channel(&store, &Attempt::new().to_string()),
            store,
            journal,
            journal_above,
        }))
    }

    /// Whether the store was reachable when last used.
    pub fn is_reachable(&self) -> bool {
        self.store.is_reachable()
    }

    /// Whether the database names this store: `Named` if it does for any shard, else
    /// `Foreign` if it names another for any.
    pub fn store_match(&self) -> StoreMatch {
        let all: Vec<StoreMatch> = self.store.shards().iter().map(|shard| self.store.store_match(*shard)).collect();
        let of_any = [StoreMatch::Named, StoreMatch::Foreign].into_iter().find(|store_match| all.contains(store_match));
        of_any.unwrap_or(StoreMatch::Unknown)
    }

    /// Records metrics of the store and its connections.
    pub fn record_metrics(&self) {
        self.store.record_metrics();
    }

    /// Waits up to 2 s for running reverts, flushes the history, and hands the grants of an
    /// embedded store over to the next process. Call it after the last request.
    pub async fn finish(&self) {
        self.background_tasks.close();
        if timeout(Self::FINISH_MAX, self.background_tasks.wait()).await.is_err() {
            tracing::warn!(
                attempts = self.background_tasks.len(),
                "unanswered acquires were not reverted before shutdown; their grants expire with their leases"
            );
        }
        self.flush_history().await;
        self.hand_over_epoch().await;
    }

    /// Counts a request by the status that its script returned.
    fn count(operation: &'static str, reply: &Reply) {
        // Registered once: the lookup of a counter by name and labels costs more than the
        // increment.
        static USUAL: LazyLock<[(&str, &str, Counter); 3]> = LazyLock::new(|| {
            [("acquire", "granted"), ("heartbeat", "renewed"), ("release", "released")]
                .map(|(operation, outcome)| (operation, outcome, outcomes(operation, outcome)))
        });
        let usual = USUAL.iter().find(|(usual, outcome, _)| *usual == operation && *outcome == reply.status());
        if let Some((_, _, counter)) = usual {
            return counter.increment(1);
        }
        let outcome = OUTCOMES.iter().find(|outcome| **outcome == reply.status()).copied().unwrap_or("other");
        outcomes(operation, outcome).increment(1);
    }

    /// Counts an expired lease that was noticed: by its former holder (a refused heartbeat),
    /// or by a server that polls the lock's queue.
    fn count_expiry(noticed_by: &'static str) {
        counter!("lockable_expired_leases_total", "noticed_by" => noticed_by).increment(1);
    }

    /// The time by a shard's clock, in microseconds, after which a command sent now must
    /// change nothing, as its caller no longer waits.
    fn deadline_us(&self, shard: Shard) -> Result<u64, StoreError> {
        let now_us = self.store.now_us(shard);
        let now_us = now_us.ok_or_else(|| StoreError::NotSent("its clock is not known yet".into()))?;
        Ok(now_us + self.store.timeout().as_micros() as u64)
    }
}
