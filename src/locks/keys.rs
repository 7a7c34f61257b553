//! Names of Redis keys that single scripts use. [`Keys`](super::requests::Keys) has the keys
//! that all scripts about a lock share.

use crate::{
    lock::RateCharge,
    store::{LOCK_TAG, Shard, Store},
};

pub(super) fn clock_key(store: &Store, shard: Shard) -> String {
    store.key(shard.tag, "clock", "")
}

/// The ended grants, which a recovery must not restore.
pub(super) fn ended_key(store: &Store, shard: Shard) -> String {
    store.key(shard.tag, "ended", "")
}

/// The identity of the primary, see `lua/register_primary.lua`.
pub(super) fn primary_identity_key(store: &Store, shard: Shard) -> String {
    store.key(shard.tag, "primary", "")
}

pub(super) fn grant_key(store: &Store, lock_key: &str) -> String {
    store.key(store.shard_of(lock_key).tag, "l", lock_key)
}

/// The index of locks that an account holds in a shard.
pub(super) fn held_key(store: &Store, shard: Shard, account: &str) -> String {
    store.key(shard.tag, "held", account)
}

/// The history of an account's locks, see `lua/write_history.lua`: one key for the locks of
/// all shards.
pub(super) fn history_key(store: &Store, account: &str) -> String {
    store.key(store.shard_of(account).tag, "history", account)
}

/// The index of locks that have a history.
pub(super) fn history_index_key(store: &Store, account: &str) -> String {
    store.key(store.shard_of(account).tag, "recorded", account)
}

/// The activity counts of an account in the last hour.
pub(super) fn activity_key(store: &Store, account: &str) -> String {
    store.key(store.shard_of(account).tag, "activity", account)
}

/// The attempts of an account that wait in a shard.
pub(super) fn waiting_key(store: &Store, shard: Shard, account: &str) -> String {
    store.key(shard.tag, "waiting", account)
}

/// The rate bucket to charge. Without a charge it is an unused key, for scripts with a fixed
/// number of keys.
pub(super) fn bucket_key(store: &Store, shard: Shard, charge: &RateCharge) -> String {
    match charge {
        RateCharge::InScript(bucket) => bucket.key.to_string(),
        RateCharge::Done => store.key(shard.tag, "rate", "-"),
    }
}

/// The servers that a shard counts as alive.
pub(super) fn servers_key(store: &Store, shard: Shard) -> String {
    store.key(shard.tag, "pods", "")
}

/// The pub/sub channel of a server.
pub(super) fn server_channel(store: &Store, id: &str) -> String {
    store.key(LOCK_TAG, "pod", id)
}
