use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;

use super::FencingToken;

/// What outlives the store: which process had the grants, and the grants of
/// long leases. A store that has forgotten some gets these back, and grants
/// nothing until all others have lapsed.
pub trait Journal: Send + Sync {
    /// Records that a process has the grants from now on, and that those of
    /// leases up to `short` are not written. Those of an epoch before are not
    /// written any more either, see [`write`](Self::write).
    ///
    /// # Errors
    /// When it could not be recorded in time.
    fn enter<'a>(&'a self, epoch: &'a Epoch, short: Duration) -> BoxFuture<'a, Result<Entered, JournalError>>;

    /// Records a change of a grant, before it is answered. Changes of one grant may
    /// be written in any order: one with a smaller sequence number than the row has
    /// changes nothing, and none follows the end.
    ///
    /// # Errors
    /// When it is not known to be written. With [`JournalError::Superseded`] it
    /// is not, since another process has the grants.
    fn write<'a>(&'a self, epoch: &'a Epoch, row: &'a JournalRow) -> BoxFuture<'a, Result<Written, JournalError>>;

    /// Records at `now_ms` that a grant has ended: it was released, broken or reverted.
    /// No change of it is recorded any more, however late it comes.
    ///
    /// # Errors
    /// When it could not be recorded in time.
    fn end<'a>(&'a self, grant: &'a EndedGrant, now_ms: u64) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Records that no fence above `fence` is known to have been given with this tag.
    ///
    /// # Errors
    /// When it could not be recorded in time.
    fn note_fence<'a>(&'a self, tag: &'a str, fence: u64) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Some of the grants that have not been followed by another of their lock, and have
    /// neither lapsed nor ended more than [`RECENT_END`] before `now_ms`, in
    /// the order of their lock keys and behind `after`; none at the end. Among those of the
    /// tag are some of others where locks were spread over tags otherwise when they
    /// were written.
    ///
    /// # Errors
    /// When they could not be read in time.
    fn page<'a>(
        &'a self,
        tag: &'a str,
        now_ms: u64,
        after: &'a str,
    ) -> BoxFuture<'a, Result<Vec<JournalRow>, JournalError>>;

    /// Leaves all grants to the next process, which has lost none of them.
    ///
    /// # Errors
    /// When they could not be written.
    fn hand_over<'a>(
        &'a self,
        epoch: &'a Epoch,
        last: FencingToken,
        grants: Vec<JournalRow>,
    ) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Reads which stores have the grants of all hash slots that ever had any.
    ///
    /// # Errors
    /// When that could not be done in time.
    fn stores(&self) -> BoxFuture<'_, Result<Vec<StoreRow>, JournalError>>;

    /// Records that a server works with these stores, so that no other is taken for
    /// theirs.
    ///
    /// # Errors
    /// When that could not be done in time.
    fn beat<'a>(&'a self, stores: &'a [&'a str]) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Records that another store has the grants of a slot from now on, unless the row
    /// has changed since it was read. `''` stands for none. Returns whether it did.
    ///
    /// # Errors
    /// When it is not known whether that was done.
    fn claim<'a>(&'a self, row: &'a StoreRow, store: &'a str) -> BoxFuture<'a, Result<bool, JournalError>>;

    /// Forgets grants that lapsed or ended before `before_ms`.
    ///
    /// # Errors
    /// When that could not be done in time.
    fn sweep(&self, before_ms: u64) -> BoxFuture<'_, Result<(), JournalError>>;
}

/// The time in which one process has the grants of a hash slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// The hash tag of the slot.
    pub tag: &'static str,
    /// What the process says of itself.
    pub process: String,
    /// The name that its data got when it was new.
    pub store: String,
    /// The epoch of then.
    pub founded_us: u64,
    /// When it began, in microseconds since 1970 by the store's clock.
    pub begun_us: u64,
    /// Tells it from others: larger than that of any before, and than all fences that were
    /// given before it. Mostly a time, in microseconds since 1970.
    pub epoch_us: u64,
}

/// What was known when a process entered the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entered {
    /// There were never any grants before.
    First,
    /// The one before has left all of its grants, and the last fence it gave.
    HandedOver { last: FencingToken },
    /// There may have been grants. Those that are not written last for `short`, and
    /// none of them is known to have a fence above `last`.
    Again { short: Duration, last: u64 },
    /// There was an epoch that began after this one, by another clock.
    Behind { epoch_us: u64 },
    /// Another store has the grants.
    Elsewhere,
}

/// What the journal knows of the store that has the grants of a hash slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRow {
    /// The hash tag of the slot.
    pub tag: String,
    /// The name of the store; empty when none has them.
    pub store: String,
    /// When its last epoch began, in microseconds since 1970.
    pub epoch_us: u64,
    /// The longest lease that any server has left unwritten.
    pub short: Duration,
    /// Changes whenever a server says that it works with the store.
    pub beat: u64,
}

/// How long after its end a grant is looked for in a store that may have forgotten
/// the end: longer than any store runs behind what it has answered.
pub const RECENT_END: Duration = Duration::from_secs(60);

/// What the journal has of a grant: its state after the change with this number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRow {
    /// Which lock it is of: namespace and name.
    pub lock_key: String,
    pub fence: FencingToken,
    /// Rises with every change of the grant.
    pub seq: u64,
    /// When it lapses, in milliseconds since 1970 by the store's clock.
    pub expires_ms: u64,
    /// The grant in the form in which the store has it; empty once it has ended.
    pub record: String,
}

/// A grant that has ended before its lease has lapsed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndedGrant {
    /// The hash tag of its slot.
    pub tag: &'static str,
    pub lock_key: String,
    pub fence: FencingToken,
    /// The latest expiry that its row can have.
    pub until_ms: u64,
}

/// What became of a change that was to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Recorded,
    /// A later change of the grant is recorded already.
    Outdated,
    /// The grant has ended.
    Ended,
}

/// Why the journal could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("long leases cannot be written down: {0}")]
    Away(String),
    /// Another process has the grants: this one was cut off, or restarted.
    #[error("another store has the grants now")]
    Superseded,
    /// The grant was released or broken while it was written.
    #[error("the grant has ended meanwhile")]
    Ended,
}

/// As the store has it.
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {} {}", self.process, self.store, self.founded_us, self.begun_us, self.epoch_us)
    }
}
