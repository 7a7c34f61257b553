//! The domain types: names, owners, leases, fencing tokens, outcomes, and the journal's
//! interface. This module depends on no other module of the crate.

mod holder;
mod identity;
mod journal;
mod namespace;
mod outcome;
mod rate;

pub use holder::{Grant, Holder};
pub use identity::{AccountId, AccountIdError, Attempt, KeyText, TokenEnd};
pub use journal::{
    EndedGrant, Epoch, EpochStart, Journal, JournalError, JournalRow, RECENT_END, StoreRow, WriteOutcome,
};
pub use lockable_protocol::{
    DURATION_MS_MAX, DurationError, FencingToken, FencingTokenError, Info, Label, Lease, LockName, NameError,
    NamespaceError, Note, Owner, TextError, check_namespace_name, is_invisible, is_unprintable, parse_duration_ms,
};
pub use namespace::{Namespace, NamespaceId};
pub use outcome::{
    AcquireOutcome, BreakOutcome, ByAnother, HeartbeatOutcome, Held, LockState, NotHeld, Refusal, ReleaseOutcome,
};
pub use rate::{Rate, RateBucket, RateCharge, RateStatus};
