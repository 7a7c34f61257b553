//! The names of single keys; those that all requests about a lock have are in
//! [`Keys`](super::requests::Keys).

use crate::{
    lock::Payment,
    store::{LOCK_TAG, Shard, Store},
};

pub(super) fn clock_key(store: &Store, shard: Shard) -> String {
    store.key(shard.tag, "clock", "")
}

/// Which grants a recovery is not to put back, since they have ended.
pub(super) fn ended_key(store: &Store, shard: Shard) -> String {
    store.key(shard.tag, "ended", "")
}

/// Who has the grants, see `lua/register_primary.lua`.
pub(super) fn home_key(store: &Store, shard: Shard) -> String {
    store.key(shard.tag, "home", "")
}

pub(super) fn grant_key(store: &Store, lock_key: &str) -> String {
    store.key(store.shard_of(lock_key).tag, "l", lock_key)
}

/// The locks that an account holds in a shard.
pub(super) fn held_key(store: &Store, shard: Shard, account: &str) -> String {
    store.key(shard.tag, "held", account)
}

/// What is on record of an account's locks, see `lua/write_history.lua`: in one lock key,
/// wherever they are.
pub(super) fn history_key(store: &Store, account: &str) -> String {
    store.key(store.shard_of(account).tag, "history", account)
}

/// Of which locks.
pub(super) fn recorded_key(store: &Store, account: &str) -> String {
    store.key(store.shard_of(account).tag, "recorded", account)
}

/// What an account did in the last hour.
pub(super) fn activity_key(store: &Store, account: &str) -> String {
    store.key(store.shard_of(account).tag, "activity", account)
}

/// The attempts with which an account waits in a shard.
pub(super) fn waiting_key(store: &Store, shard: Shard, account: &str) -> String {
    store.key(shard.tag, "waiting", account)
}

/// The rate that is charged. One is named in any case, for scripts that always
/// have the same keys.
pub(super) fn bucket_key(store: &Store, shard: Shard, payment: &Payment) -> String {
    match payment {
        Payment::Due(due) => due.bucket.to_string(),
        Payment::Paid => store.key(shard.tag, "rate", "-"),
    }
}

/// The servers that are there, as a shard knows.
pub(super) fn pods_key(store: &Store, shard: Shard) -> String {
    store.key(shard.tag, "pods", "")
}

/// The channel of a server.
pub(super) fn pod_channel(store: &Store, id: &str) -> String {
    store.key(LOCK_TAG, "pod", id)
}
