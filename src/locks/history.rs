//! The history of locks, for people.

mod read;
pub(super) mod recorder;
mod write;

pub use self::read::{Counts, Ending, History, Past};
