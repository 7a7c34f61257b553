use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, ready};
use lockable::{
    lock::{
        EndedGrant, Epoch, EpochStart, FencingToken, Journal, JournalError, JournalRow, Lease, StoreRow, WriteOutcome,
    },
    locks::Locks,
    store::Store,
};

/// A journal that contains nothing and treats every store as new, for tests that lose no data.
struct EmptyJournal;

/// Returns the locks of a new store.
pub async fn new_locks(store: Store) -> Locks {
    let locks = Locks::new(store, Arc::new(EmptyJournal), Lease::from_secs(60), 1);
    locks.recover().await.unwrap();
    locks
}

impl Journal for EmptyJournal {
    fn begin_epoch<'a>(&'a self, _: &'a Epoch, _: Duration) -> BoxFuture<'a, Result<EpochStart, JournalError>> {
        Box::pin(ready(Ok(EpochStart::First)))
    }

    fn write<'a>(&'a self, _: &'a Epoch, _: &'a JournalRow) -> BoxFuture<'a, Result<WriteOutcome, JournalError>> {
        Box::pin(ready(Ok(WriteOutcome::Recorded)))
    }

    fn end<'a>(&'a self, _: &'a EndedGrant, _: u64) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(ready(Ok(())))
    }

    fn record_last_fence<'a>(&'a self, _: &'a str, _: u64) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(ready(Ok(())))
    }

    fn page<'a>(&'a self, _: &'a str, _: u64, _: &'a str) -> BoxFuture<'a, Result<Vec<JournalRow>, JournalError>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn hand_over_epoch<'a>(
        &'a self,
        _: &'a Epoch,
        _: FencingToken,
        _: Vec<JournalRow>,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(ready(Ok(())))
    }

    fn stores(&self) -> BoxFuture<'_, Result<Vec<StoreRow>, JournalError>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn heartbeat<'a>(&'a self, _: &'a [&'a str]) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(ready(Ok(())))
    }

    fn claim<'a>(&'a self, _: &'a StoreRow, _: &'a str) -> BoxFuture<'a, Result<bool, JournalError>> {
        Box::pin(ready(Ok(false)))
    }

    fn sweep(&self, _: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(ready(Ok(())))
    }
}
