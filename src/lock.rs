//! The domain types: names, owners, leases, fencing tokens, outcomes, and the journal's
//! interface. This module depends on no other module of the crate.

mod fence;
mod holder;
mod identity;
mod journal;
mod lease;
mod name;
mod namespace;
mod outcome;
mod rate;
mod text;

pub use fence::{FencingToken, FencingTokenError};
pub use holder::{Grant, Holder};
pub use identity::{AccountId, Attempt, Info, KeyText, Label, Note, Owner, TextError, TokenEnd};
pub use journal::{
    EndedGrant, Epoch, EpochStart, Journal, JournalError, JournalRow, RECENT_END, StoreRow, WriteOutcome,
};
pub use lease::{DURATION_MS_MAX, DurationError, Lease, parse_duration_ms};
pub use name::{LockName, NameError};
pub use namespace::{Namespace, NamespaceError, NamespaceId};
pub use outcome::{
    AcquireOutcome, BreakOutcome, ByAnother, HeartbeatOutcome, Held, LockState, NotHeld, Refusal, ReleaseOutcome,
};
pub use rate::{Rate, RateBucket, RateCharge, RateStatus};
pub use text::{is_invisible, is_unprintable};
