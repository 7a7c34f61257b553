//! The names of single keys; those that all requests about a lock have are in
//! [`Keys`](super::request::Keys).

use crate::{
    keyspace::{Keyspace, LOCK_TAG, Shard},
    lock::Payment,
};

pub(super) fn clock_key(keyspace: &Keyspace, shard: Shard) -> String {
    keyspace.key(shard.tag, "clock", "")
}

/// Which grants a recovery is not to put back, since they have ended.
pub(super) fn ended_key(keyspace: &Keyspace, shard: Shard) -> String {
    keyspace.key(shard.tag, "ended", "")
}

/// Who has the grants, see `lua/arrive.lua`.
pub(super) fn home_key(keyspace: &Keyspace, shard: Shard) -> String {
    keyspace.key(shard.tag, "home", "")
}

pub(super) fn lock_key(keyspace: &Keyspace, place: &str) -> String {
    keyspace.key(keyspace.shard_of(place).tag, "l", place)
}

/// The locks that an account holds in a shard.
pub(super) fn held_key(keyspace: &Keyspace, shard: Shard, account: &str) -> String {
    keyspace.key(shard.tag, "held", account)
}

/// What is on record of an account's locks, see `lua/record.lua`: in one place,
/// wherever they are.
pub(super) fn history_key(keyspace: &Keyspace, account: &str) -> String {
    keyspace.key(keyspace.shard_of(account).tag, "history", account)
}

/// Of which locks.
pub(super) fn recorded_key(keyspace: &Keyspace, account: &str) -> String {
    keyspace.key(keyspace.shard_of(account).tag, "recorded", account)
}

/// What an account did in the last hour.
pub(super) fn activity_key(keyspace: &Keyspace, account: &str) -> String {
    keyspace.key(keyspace.shard_of(account).tag, "activity", account)
}

/// The attempts with which an account waits in a shard.
pub(super) fn waiting_key(keyspace: &Keyspace, shard: Shard, account: &str) -> String {
    keyspace.key(shard.tag, "waiting", account)
}

/// The rate that is charged. One is named in any case, for scripts that always
/// have the same keys.
pub(super) fn bucket_key(keyspace: &Keyspace, shard: Shard, payment: &Payment) -> String {
    match payment {
        Payment::Due(due) => due.bucket.to_string(),
        Payment::Paid => keyspace.key(shard.tag, "rate", "-"),
    }
}

/// The servers that are there, as a shard knows.
pub(super) fn pods_key(keyspace: &Keyspace, shard: Shard) -> String {
    keyspace.key(shard.tag, "pods", "")
}

/// The channel of a server.
pub(super) fn pod_channel(keyspace: &Keyspace, id: &str) -> String {
    keyspace.key(LOCK_TAG, "pod", id)
}
