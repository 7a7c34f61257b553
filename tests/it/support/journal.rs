use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, ready};
use lockable::{
    lock::{EndedGrant, Entered, Epoch, FencingToken, Journal, JournalError, JournalRow, Lease, StoreRow, Written},
    locks::Locks,
    store::Store,
};

/// A journal for which every store is the first: for tests of one that forgets
/// nothing.
struct Blank;

/// Locks in a store that is new.
pub async fn new_locks(store: Store) -> Locks {
    let locks = Locks::new(store, Arc::new(Blank), Lease::from_secs(60), 1);
    locks.recover().await.unwrap();
    locks
}

impl Journal for Blank {
    fn enter<'a>(&'a self, _: &'a Epoch, _: Duration) -> BoxFuture<'a, Result<Entered, JournalError>> {
        Box::pin(ready(Ok(Entered::First)))
    }

    fn write<'a>(&'a self, _: &'a Epoch, _: &'a JournalRow) -> BoxFuture<'a, Result<Written, JournalError>> {
        Box::pin(ready(Ok(Written::Recorded)))
    }

    fn end<'a>(&'a self, _: &'a EndedGrant, _: u64) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(ready(Ok(())))
    }

    fn note_fence<'a>(&'a self, _: &'a str, _: u64) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(ready(Ok(())))
    }

    fn page<'a>(&'a self, _: &'a str, _: u64, _: &'a str) -> BoxFuture<'a, Result<Vec<JournalRow>, JournalError>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn hand_over<'a>(
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

    fn beat<'a>(&'a self, _: &'a [&'a str]) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(ready(Ok(())))
    }

    fn claim<'a>(&'a self, _: &'a StoreRow, _: &'a str) -> BoxFuture<'a, Result<bool, JournalError>> {
        Box::pin(ready(Ok(false)))
    }

    fn sweep(&self, _: u64) -> BoxFuture<'_, Result<(), JournalError>> {
        Box::pin(ready(Ok(())))
    }
}
