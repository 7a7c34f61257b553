use std::time::Duration;

use super::{FencingToken, Grant, Holder, Label};

/// What became of an acquire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireOutcome {
    Granted(Grant),
    /// Its owner held the lock already, and has renewed it.
    Again(Grant),
    Refused(Refusal),
}

/// Why an acquire was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody holds the lock, for the rest of a lease at most.
    Held(Held),
    /// It was waited for, and not had in that time.
    TimedOut(Option<Held>),
    /// Its owner has released the lock, which it waited for.
    Cancelled,
    /// A later request of its owner has its position.
    Replaced(Held),
    /// The server is about to stop, and waits for nothing any more.
    Draining(Option<Held>),
    /// Grants may have been forgotten, and nothing is granted until they have
    /// lapsed.
    Recovering { rest: Duration },
    /// The account holds as many locks as its plan allows.
    OverQuota { held: u64 },
    /// The account waits with as many requests as its plan allows.
    TooManyWaiting { waiting: u64 },
    /// The token has used up its rate.
    RateLimited { retry_after: Duration },
}

/// Who holds a lock, and for how long if nothing more is heard of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub holder: Holder,
    pub rest: Duration,
}

/// How a lock stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub held: Option<Held>,
    /// How many stand in line for it.
    pub waiting: u64,
    /// Which of them the owner is whose position was asked for, from 1, if any.
    pub position: Option<u64>,
}

/// What became of breaking a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakOutcome {
    Broken,
    Refused(NotHeld),
}

/// What became of a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatOutcome {
    Renewed(Grant),
    Refused(NotHeld),
    RateLimited { retry_after: Duration },
}

/// What became of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    Released,
    /// By another token of the account than the one that had acquired it.
    ByAnother(Box<ByAnother>),
    Refused(NotHeld),
    RateLimited {
        retry_after: Duration,
    },
}

/// A grant that another token has released, and what is known of the one that had acquired it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByAnother {
    pub fence: FencingToken,
    pub label: Label,
    /// The end of its id.
    pub token_end: String,
}

/// Why a heartbeat or a release changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// Nobody holds the lock.
    Free,
    /// Somebody else does, or the caller does under a newer grant.
    HeldByAnother,
}
