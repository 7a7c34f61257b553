//! The domain, pure: what a lock is called, who holds it, for how long, and
//! under which fencing token. This room names no other room of the crate.

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
pub use journal::{EndedGrant, Entered, Epoch, Journal, JournalError, JournalRow, RECENT_END, StoreRow, Written};
pub use lease::{DURATION_MS_MAX, DurationError, Lease, parse_duration_ms};
pub use name::{LockName, NameError};
pub use namespace::{Namespace, NamespaceError, NamespaceId};
pub use outcome::{
    AcquireOutcome, BreakOutcome, ByAnother, HeartbeatOutcome, Held, NotHeld, Refusal, ReleaseOutcome, Standing,
};
pub use rate::{Payment, Rate, RateDue, RateStanding};
pub use text::{is_invisible, is_unprintable};
