//! The history of locks, for people.

pub(super) mod buffer;
mod read;
mod write;

pub use self::read::{ActivityCounts, GrantEnd, History, PastGrant};
