use std::time::Duration;

use super::{Grant, Holder};

/// What became of an acquire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    Granted(Grant),
    Refused(Refusal),
}

/// Why an acquire was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody holds the lock, for the rest of a lease at most.
    Held { holder: Holder, rest: Duration },
    /// The account holds as many locks as its plan allows.
    OverQuota { held: u64 },
    /// The token has used up its rate.
    RateLimited { retry_after: Duration },
}

/// What became of a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heartbeaten {
    Renewed(Grant),
    Refused(NotHeld),
    RateLimited { retry_after: Duration },
}

/// What became of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    Released,
    Refused(NotHeld),
    RateLimited { retry_after: Duration },
}

/// Why a heartbeat or a release changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// Nobody holds the lock.
    Free,
    /// Somebody else does, or the caller does under a newer grant.
    HeldByAnother,
}
