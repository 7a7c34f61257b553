//! The service: one function per operation, each one script call. What is
//! decided about a lock is decided in `lua/`; this room says who asks for what,
//! and reads the answer once.

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

pub use crate::store::Belonging;

pub use self::{
    acquire::Turn,
    history::{Counts, Ending, History, Past},
    inspect::UnrecordedEnd,
    list::{Census, Cursor, ListRequest, Listing, Looked, Page},
    queue::{Crowd, Look, Waited, Waiter, Withdrawn},
    requests::{
        AcquireRequest, Answer, BreakRequest, Claimant, HeartbeatRequest, LockId, ReleaseRequest, RenewedLease,
    },
};
use self::{
    history::recorder::Recorder, keys::pod_channel, queue::registry::Waiters, stall::StallGuard, usage::Quotas,
};

/// Locks, wherever they are kept, and those who wait for them in this server.
/// Cheap to clone, which every acquire does for the case that it has to be taken
/// back.
#[derive(Clone)]
pub struct Locks(Arc<Parts>);

/// What all clones share.
pub struct Parts {
    store: Store,
    journal: Arc<dyn Journal>,
    /// The longest lease that is not written down.
    short: Lease,
    undoings: Semaphore,
    undo_tasks: TaskTracker,
    stall_guard: StallGuard,
    waiters: Arc<Waiters>,
    recorder: Recorder,
    /// What accounts have in the shards of a cluster.
    quotas: Quotas,
    /// The channel on which this server is told of its waiters. It has a new one
    /// with each start.
    pod: String,
}

impl Deref for Locks {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// What scripts say that requests about locks run, for counting them without a
/// copy of the word.
const OUTCOMES: &[&str] = &[
    "granted",
    "again",
    "busy",
    "cancelled",
    "held",
    "in_line",
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

/// Why an operation has no outcome. It may have been carried out, unless its
/// function says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum LocksError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store came to it only after its deadline, and did nothing.
    #[error("the store was reached too late, and did nothing")]
    TooLate,
    #[error(transparent)]
    Reply(#[from] BadReply),
    /// A long lease could not be written down.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The claimant may hold the lock, and it has not been put back yet after a
    /// loss.
    #[error("what is held is not known yet")]
    Unsettled,
    /// The store is not the one that the database names, as far as is known. Nothing was
    /// done.
    #[error("the database names another store")]
    Foreign,
    /// As many requests wait in this server as may. Nothing was done.
    #[error("too many requests wait in this server")]
    Full,
}

impl Locks {
    /// How many attempts without an answer are withdrawn at a time. What more
    /// there are were granted is left to lapse.
    pub const UNDOINGS_MAX: usize = 10_000;

    /// How long the server waits for that when it stops.
    const FINISH_MAX: Duration = Duration::from_secs(2);

    /// Locks in a store, for which `waiters_max` requests may wait at once in
    /// this server. Leases that are longer than `short` are written to the journal.
    pub fn new(store: Store, journal: Arc<dyn Journal>, short: Lease, waiters_max: usize) -> Self {
        Self(Arc::new(Parts {
            undoings: Semaphore::new(Self::UNDOINGS_MAX),
            undo_tasks: TaskTracker::new(),
            stall_guard: StallGuard::default(),
            waiters: Waiters::new(waiters_max),
            recorder: Recorder::default(),
            quotas: Quotas::default(),
            pod: pod_channel(&store, &Attempt::new().to_string()),
            store,
            journal,
            short,
        }))
    }

    /// Whether locks can be asked for, as far as is known.
    pub fn is_reachable(&self) -> bool {
        self.store.is_reachable()
    }

    /// Whether the locks are where the database says that they are, in some shards at
    /// least, as far as is known.
    pub fn belonging(&self) -> Belonging {
        let all: Vec<Belonging> = self.store.shards().iter().map(|shard| self.store.belonging(*shard)).collect();
        let of_any = [Belonging::Ours, Belonging::Foreign].into_iter().find(|belonging| all.contains(belonging));
        of_any.unwrap_or(Belonging::Unknown)
    }

    /// Measures how the way to the locks stands.
    pub fn measure(&self) {
        self.store.measure();
    }

    /// Lets attempts be withdrawn for a moment longer, when no more are made, and
    /// leaves to the next process what would end with this one.
    pub async fn finish(&self) {
        self.undo_tasks.close();
        if timeout(Self::FINISH_MAX, self.undo_tasks.wait()).await.is_err() {
            tracing::warn!(attempts = self.undo_tasks.len(), "attempts without an answer are left to lapse");
        }
        self.finish_record().await;
        self.hand_over().await;
    }

    /// Counts what became of a request, in the words of its script.
    fn count(operation: &'static str, reply: &Reply) {
        // Found once: to look for a counter by its name and labels costs more than
        // to count.
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

    /// Counts a lease that has lapsed and that somebody has noticed: the holder, who
    /// thought that it held the lock, or a server for those who stand in line.
    fn count_lapse(noticed_by: &'static str) {
        counter!("lockable_lapses_total", "noticed_by" => noticed_by).increment(1);
    }

    /// The time in microseconds, where a shard is, after which nobody waits for an answer
    /// to what is sent now, and nothing may be done any more.
    fn deadline_us(&self, shard: Shard) -> Result<u64, StoreError> {
        let now_us = self.store.now_us(shard);
        let now_us = now_us.ok_or_else(|| StoreError::NotSent("its time is not known yet".into()))?;
        Ok(now_us + self.store.timeout().as_micros() as u64)
    }
}
