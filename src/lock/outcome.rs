use std::time::Duration;

use super::{FencingToken, Grant, Holder, Label};

/// The outcome of an acquire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireOutcome {
    Granted(Grant),
    /// The owner already held the lock, and the acquire renewed the lease.
    Again(Grant),
    Refused(Refusal),
}

/// The reason for which an acquire was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another holder has the lock.
    Held(Held),
    /// The wait ended without a grant.
    TimedOut(Option<Held>),
    /// The owner released the lock while this request waited for it.
    Cancelled,
    /// A newer request of the owner took over the queue position.
    Replaced(Held),
    /// The server is stopping, and no longer waits for locks.
    Draining(Option<Held>),
    /// The store may have lost grants; nothing is granted until they have expired.
    Recovering { remaining: Duration },
    /// The account's quota of held locks is reached.
    OverQuota { held: u64 },
    /// The account's quota of queued requests is reached.
    TooManyWaiting { waiting: u64 },
    /// The account's rate is used up.
    RateLimited { retry_after: Duration },
}

/// The holder of a lock, and the time until its lease expires unless renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub holder: Holder,
    pub remaining: Duration,
}

/// The state of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockState {
    pub held: Option<Held>,
    /// The number of queued requests.
    pub waiting: u64,
    /// The queue position of the owner in the request, counted from 1.
    pub position: Option<u64>,
}

/// The outcome of a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakOutcome {
    Broken,
    Refused(NotHeld),
}

/// The outcome of a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatOutcome {
    Renewed(Grant),
    Refused(NotHeld),
    RateLimited { retry_after: Duration },
}

/// The outcome of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    Released,
    /// Released by a token of the account other than the one that acquired the lock.
    ByAnother(Box<ByAnother>),
    Refused(NotHeld),
    RateLimited {
        retry_after: Duration,
    },
}

/// A grant that another token released. The fields name the token that acquired it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByAnother {
    pub fence: FencingToken,
    /// The acquiring token's label.
    pub label: Label,
    /// The last digits of the acquiring token's id.
    pub token_end: String,
}

/// The reason for which a heartbeat, release or break changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// The lock is not held.
    Free,
    /// Another holder has the lock, or the caller under a newer grant.
    HeldByAnother,
}
