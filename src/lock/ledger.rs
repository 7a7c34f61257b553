use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;

use super::Fence;

/// What outlives the keyspace: which process had the grants, and the grants of
/// long leases. A keyspace that has forgotten some gets these back, and grants
/// nothing until all others have lapsed.
pub trait Ledger: Send + Sync {
    /// Records that a process has the grants from now on, and that those of
    /// leases up to `short` are not written. Those of an era before are not
    /// written any more either, see [`write`](Self::write).
    ///
    /// # Errors
    /// When it could not be recorded in time.
    fn enter<'a>(&'a self, era: &'a Era, short: Duration) -> BoxFuture<'a, Result<Entered, LedgerError>>;

    /// Writes a grant or its renewal, before it is answered.
    ///
    /// # Errors
    /// When it is not known to be written. With [`LedgerError::Superseded`] it
    /// is not, since another process has the grants.
    fn write<'a>(&'a self, era: &'a Era, grant: &'a LongGrant) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// Strikes out a grant that was released or broken.
    ///
    /// # Errors
    /// When it could not be struck out in time.
    fn strike<'a>(&'a self, place: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// Some of the grants that have not lapsed by `now_ms`, in the order of their
    /// places and behind `after`; none at the end. Among those of the tag are some
    /// of others where locks were spread over tags otherwise when they were written.
    ///
    /// # Errors
    /// When they could not be read in time.
    fn page<'a>(
        &'a self,
        tag: &'a str,
        now_ms: u64,
        after: &'a str,
    ) -> BoxFuture<'a, Result<Vec<LongGrant>, LedgerError>>;

    /// Leaves all grants to the next process, which has lost none of them.
    ///
    /// # Errors
    /// When they could not be written.
    fn hand_over<'a>(
        &'a self,
        era: &'a Era,
        last: Fence,
        grants: Vec<LongGrant>,
    ) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// Forgets grants that lapsed before `before_ms`.
    ///
    /// # Errors
    /// When that could not be done in time.
    fn sweep(&self, before_ms: u64) -> BoxFuture<'_, Result<(), LedgerError>>;
}

/// The time in which one process has the grants of a hash slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Era {
    /// The hash tag of the slot.
    pub tag: &'static str,
    /// What the process says of itself.
    pub process: String,
    /// When it began, in microseconds since 1970: larger than that of any before.
    pub epoch_us: u64,
}

/// What was known when a process entered the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entered {
    /// There were never any grants before.
    First,
    /// The one before has left all of its grants, and the last fence it gave.
    HandedOver { last: Fence },
    /// There may have been grants. Those that are not written last for `short`.
    Again { short: Duration },
    /// There was an era that began after this one, by another clock.
    Behind { epoch_us: u64 },
}

/// A grant as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongGrant {
    /// Which lock it is of: namespace and name.
    pub place: String,
    pub fence: Fence,
    /// When it lapses, in milliseconds since 1970 by the keyspace's clock.
    pub expires_ms: u64,
    /// The grant in the form in which the keyspace has it.
    pub record: String,
}

/// Why the ledger could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("long leases cannot be written down: {0}")]
    Away(String),
    /// Another process has the grants: this one was cut off, or restarted.
    #[error("another keyspace has the grants now")]
    Superseded,
}

/// As the keyspace has it.
impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.process, self.epoch_us)
    }
}
