use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;

use super::FencingToken;

/// The record that survives a loss of the store: the process that has the grants, and the grants
/// of long leases. After a loss, a recovery restores these grants. It grants nothing until all
/// other lost grants have expired.
pub trait Journal: Send + Sync {
    /// Records that a process has the grants from now on, and that it journals leases longer
    /// than `journal_above`. [`write`](Self::write) then rejects grants of earlier epochs.
    ///
    /// # Errors
    /// It could not be recorded in time.
    fn begin_epoch<'a>(
        &'a self,
        epoch: &'a Epoch,
        journal_above: Duration,
    ) -> BoxFuture<'a, Result<EpochStart, JournalError>>;

    /// Records a change of a grant before the server answers. Changes of one grant may arrive
    /// in any order: a change with a smaller sequence number than the row's has no effect, and
    /// no change is recorded after the end.
    ///
    /// # Errors
    /// The change may not be recorded. With [`JournalError::Superseded`] it certainly is not,
    /// as another process has the grants.
    fn write<'a>(&'a self, epoch: &'a Epoch, row: &'a JournalRow) -> BoxFuture<'a, Result<WriteOutcome, JournalError>>;

    /// Records at `now_ms` that a grant has ended: it was released, broken or reverted. Later
    /// changes of the grant are not recorded.
    ///
    /// # Errors
    /// It could not be recorded in time.
    fn end<'a>(&'a self, grant: &'a EndedGrant, now_ms: u64) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Records the largest fence known to be issued in the slot of this tag.
    ///
    /// # Errors
    /// It could not be recorded in time.
    fn record_last_fence<'a>(&'a self, tag: &'a str, fence: u64) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Reads a page of the latest grants of locks, in the order of lock keys after `after`;
    /// empty at the end. Omits grants that expired or ended more than [`RECENT_END`] before
    /// `now_ms`. Rows that were written under another shard layout may belong to another tag.
    ///
    /// # Errors
    /// The rows could not be read in time.
    fn page<'a>(
        &'a self,
        tag: &'a str,
        now_ms: u64,
        after: &'a str,
    ) -> BoxFuture<'a, Result<Vec<JournalRow>, JournalError>>;

    /// Replaces the rows of the epoch's tag with all grants of a stopping process. The next
    /// process restores them all, so it needs no recovery.
    ///
    /// # Errors
    /// The grants could not be written.
    fn hand_over_epoch<'a>(
        &'a self,
        epoch: &'a Epoch,
        last: FencingToken,
        grants: Vec<JournalRow>,
    ) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Reads the store of every hash slot that ever had grants.
    ///
    /// # Errors
    /// The rows could not be read in time.
    fn stores(&self) -> BoxFuture<'_, Result<Vec<StoreRow>, JournalError>>;

    /// Records that a server uses these stores, so that no other store is claimed instead.
    ///
    /// # Errors
    /// It could not be recorded in time.
    fn heartbeat<'a>(&'a self, stores: &'a [&'a str]) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Records that `store` has the grants of a slot from now on (`''`: no store), unless the
    /// row has changed since it was read. Returns whether it was recorded.
    ///
    /// # Errors
    /// It may not be recorded.
    fn claim<'a>(&'a self, row: &'a StoreRow, store: &'a str) -> BoxFuture<'a, Result<bool, JournalError>>;

    /// Deletes grants that expired or ended before `before_ms`.
    ///
    /// # Errors
    /// They could not be deleted in time.
    fn sweep(&self, before_ms: u64) -> BoxFuture<'_, Result<(), JournalError>>;
}

/// The time during which one Redis process has the grants of a hash slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// The hash tag of the slot.
    pub tag: &'static str,
    /// The identity that the process reports.
    pub process: String,
    /// The name of its data set, chosen when that was new.
    pub store: String,
    /// The number of the data set's first epoch.
    pub founded_us: u64,
    /// The begin of the epoch, in microseconds since 1970 by the store's clock.
    pub begun_us: u64,
    /// The number of the epoch: larger than that of any earlier epoch, and than all fences
    /// issued before. Usually a time, in microseconds since 1970.
    pub epoch_us: u64,
}

/// The state of the journal when an epoch begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EpochStart {
    /// The slot never had grants.
    First,
    /// The previous process handed over all of its grants and its last fence.
    HandedOver { last_fence: FencingToken },
    /// There may be grants of an earlier epoch. Unjournaled ones last at most `journal_above`,
    /// and the largest known fence is `last_fence`.
    MayHaveGrants { journal_above: Duration, last_fence: u64 },
    /// The journal has an epoch with a larger number, which another clock issued.
    Behind { epoch_us: u64 },
    /// The database names another store.
    OtherStore,
}

/// The journal's row of the store that has the grants of a hash slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRow {
    /// The hash tag of the slot.
    pub tag: String,
    /// The name of the store; empty for none.
    pub store: String,
    /// The number of its last epoch, see [`Epoch::epoch_us`].
    pub epoch_us: u64,
    /// The longest lease that any of its servers does not journal.
    pub journal_above: Duration,
    /// A counter that servers which use the store increment.
    pub heartbeats: u64,
}

/// The time after the end of a grant in which the journal keeps its row. A store may lose the
/// end in a failover, and a recovery then removes the grant again. Longer than the lag of any
/// replica.
pub const RECENT_END: Duration = Duration::from_secs(60);

/// A grant in the journal, after the change with the number `seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRow {
    /// Namespace and name of the lock.
    pub lock_key: String,
    pub fence: FencingToken,
    /// Increases with every change of the grant.
    pub seq: u64,
    /// The expiry, in milliseconds since 1970 by the store's clock.
    pub expires_ms: u64,
    /// The grant as the store encodes it, in full form; empty after its end.
    pub stored_grant: String,
}

/// A grant that ended before its expiry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndedGrant {
    /// The hash tag of its slot.
    pub tag: &'static str,
    pub lock_key: String,
    pub fence: FencingToken,
    /// An upper bound of the expiry in the journal's row of this grant.
    pub until_ms: u64,
}

/// The outcome of recording a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    Recorded,
    /// The row has a later change of the grant.
    Outdated,
    /// The grant has ended.
    Ended,
}

/// The reason for which a journal operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("the journal is not available: {0}")]
    Unavailable(String),
    /// Another process has the grants: this one was disconnected or restarted.
    #[error("another store has the grants now")]
    Superseded,
    /// The grant was released or broken during the write.
    #[error("the grant ended before it was recorded")]
    Ended,
}

/// The form in the store.
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {} {}", self.process, self.store, self.founded_us, self.begun_us, self.epoch_us)
    }
}
