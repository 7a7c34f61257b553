use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, ready};
use lockable::{
    keyspace::Keyspace,
    lock::{EndedGrant, Entered, Era, Fence, JournalRow, Lease, Ledger, LedgerError, StoreRow, Written},
    locks::Locks,
};

/// A ledger for which every keyspace is the first: for tests of one that forgets
/// nothing.
struct Blank;

/// Locks in a keyspace that is new.
pub async fn new_locks(keyspace: Keyspace) -> Locks {
    let locks = Locks::new(keyspace, Arc::new(Blank), Lease::from_secs(60), 1);
    locks.recover().await.unwrap();
    locks
}

impl Ledger for Blank {
    fn enter<'a>(&'a self, _: &'a Era, _: Duration) -> BoxFuture<'a, Result<Entered, LedgerError>> {
        Box::pin(ready(Ok(Entered::First)))
    }

    fn write<'a>(&'a self, _: &'a Era, _: &'a JournalRow) -> BoxFuture<'a, Result<Written, LedgerError>> {
        Box::pin(ready(Ok(Written::Recorded)))
    }

    fn end<'a>(&'a self, _: &'a EndedGrant, _: u64) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(ready(Ok(())))
    }

    fn note_fence<'a>(&'a self, _: &'a str, _: u64) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(ready(Ok(())))
    }

    fn page<'a>(&'a self, _: &'a str, _: u64, _: &'a str) -> BoxFuture<'a, Result<Vec<JournalRow>, LedgerError>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn hand_over<'a>(&'a self, _: &'a Era, _: Fence, _: Vec<JournalRow>) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(ready(Ok(())))
    }

    fn stores(&self) -> BoxFuture<'_, Result<Vec<StoreRow>, LedgerError>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn beat<'a>(&'a self, _: &'a [&'a str]) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(ready(Ok(())))
    }

    fn claim<'a>(&'a self, _: &'a StoreRow, _: &'a str) -> BoxFuture<'a, Result<bool, LedgerError>> {
        Box::pin(ready(Ok(false)))
    }

    fn sweep(&self, _: u64) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(ready(Ok(())))
    }
}
