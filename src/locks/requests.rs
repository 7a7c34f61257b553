use std::{fmt, str::FromStr, sync::Arc};

use super::script_args::{KeySlices, ScriptArgs};
use crate::{
    lock::{
        AccountId, FencingToken, Info, Label, Lease, LockName, NamespaceId, Note, Owner, RateCharge, RateStatus,
        TokenEnd,
    },
    store::{BadReply, Reply, Store},
};

/// The key of a lock: its namespace and name. Its text `NAMESPACE/NAME` is the lock key of
/// scripts, indexes and the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockKey {
    pub namespace: NamespaceId,
    pub name: LockName,
}

/// The caller of an operation, which scripts compare with the holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    pub account: AccountId,
    pub owner: Option<Owner>,
}

/// The parameters of an acquire.
#[derive(Clone, Debug)]
pub struct AcquireRequest {
    pub lock: LockKey,
    pub claimant: Claimant,
    pub lease: Lease,
    /// Whether the client chose the lease; a heartbeat without a lease then renews with it.
    pub is_lease_asked: bool,
    /// The label of the caller's token, and the last digits of its id.
    pub label: Label,
    pub token: TokenEnd,
    pub note: Note,
    pub info: Info,
    /// The account's quota of held locks.
    pub held_max: u64,
    /// The account's quota of queued requests.
    pub waiting_max: u64,
    pub charge: RateCharge,
}

/// The parameters of a heartbeat.
#[derive(Clone, Debug)]
pub struct HeartbeatRequest {
    pub lock: LockKey,
    pub claimant: Claimant,
    pub lease: RenewedLease,
    /// Renew only the grant with this fence.
    pub fence: Option<FencingToken>,
    pub charge: RateCharge,
}

/// The lease of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewedLease {
    For(Lease),
    /// The lease that the holder asked for last, at most the plan's maximum.
    LastAsked {
        /// For holders that never asked for a lease.
        default: Lease,
        max: Lease,
    },
}

/// The parameters of a release.
#[derive(Clone, Debug)]
pub struct ReleaseRequest {
    pub lock: LockKey,
    pub claimant: Claimant,
    /// Release only the grant with this fence.
    pub fence: Option<FencingToken>,
    /// The last digits of the id of the caller's token.
    pub token: TokenEnd,
    pub charge: RateCharge,
}

/// The parameters of a break.
#[derive(Clone, Debug)]
pub struct BreakRequest {
    pub lock: LockKey,
    /// The account that must hold the lock.
    pub account: AccountId,
    /// The grant to break.
    pub fence: FencingToken,
}

/// An outcome, and the rate status if the script charged the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithRate<T> {
    pub outcome: T,
    pub rate: Option<RateStatus>,
}

impl Claimant {
    /// The owner as stored: empty for none.
    pub(super) fn owner_text(&self) -> &str {
        self.owner.as_ref().map_or("", Owner::as_str)
    }

    /// Writes the prefix by which scripts recognize the claimant's grants.
    pub(super) fn write_holder_prefix(&self, text: &mut String) {
        for part in [self.account.key_text().as_str(), "\n", self.owner_text(), "\n"] {
            text.push_str(part);
        }
    }
}

impl AcquireRequest {
    /// Writes the metadata of the grant, see `lua/acquire.lua`: the lease if the client chose
    /// it, then one field per line, without empty ones at the end.
    pub(super) fn write_metadata(&self, text: &mut String) {
        if self.is_lease_asked {
            text.push('@');
            text.push_str(itoa::Buffer::new().format(self.lease.as_ms()));
        }
        for part in ["\n", self.label.as_str(), "\t", self.token.as_str()] {
            text.push_str(part);
        }
        let fields = [self.note.as_str(), self.info.as_str()];
        let filled = fields.iter().rposition(|field| !field.is_empty()).map_or(0, |last| last + 1);
        for field in fields.into_iter().take(filled) {
            text.push('\n');
            text.push_str(field);
        }
    }
}

impl LockKey {
    /// The text of the key. Concatenated by hand: every request needs it, and `format!` is
    /// slower.
    pub(super) fn lock_key(&self) -> String {
        let (namespace, name) = (self.namespace.key_text(), self.name.as_str());
        let mut lock_key = String::with_capacity(namespace.as_str().len() + 1 + name.len());
        for part in [namespace.as_str(), "/", name] {
            lock_key.push_str(part);
        }
        lock_key
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lock_key())
    }
}

impl FromStr for LockKey {
    type Err = InvalidLockKey;

    fn from_str(lock_key: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = lock_key.split_once('/').ok_or(InvalidLockKey)?;
        let namespace = namespace.parse().map_err(|_| InvalidLockKey)?;
        Ok(Self { namespace, name: LockName::parse(name).map_err(|_| InvalidLockKey)? })
    }
}

/// The text is not a lock key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a lock key")]
pub struct InvalidLockKey;

/// Builds a script by concatenating files, the prelude first. A file that returns early saves
/// Redis the definition of the functions in the files after it.
macro_rules! script {
    ($name:literal) => {
        script!($name = $name)
    };
    ($name:literal = $($part:literal)*) => {
        Script::new(
            $name,
            concat!(
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/lua/prelude.lua")),
                $(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/lua/", $part, ".lua")),)*
            ),
        )
    };
}
pub(super) use script;

/// The names of the keys of a lock and of an account, in the order of `lua/keys.lua`.
pub(super) struct Keys {
    names: ScriptArgs,
    /// `None` if the request is already charged.
    bucket: Option<Arc<str>>,
}

impl Keys {
    /// Whether the minimal keys were enough for a script. If not, it changed nothing.
    pub(super) fn were_sufficient(reply: &Reply) -> bool {
        reply.status() != "too_few_keys"
    }

    pub(super) fn new(store: &Store, lock_key: &str, account: &str, charge: &RateCharge) -> Self {
        let mut keys = Self::minimal(store, lock_key, account);
        keys.add_remaining(store, lock_key, account, charge);
        keys
    }

    /// The first keys, enough for most requests: each key costs Redis a quarter of a
    /// microsecond, of the ten that a request takes.
    pub(super) fn minimal(store: &Store, lock_key: &str, account: &str) -> Self {
        let mut keys = Self { names: ScriptArgs::new(), bucket: None };
        keys.add(store, lock_key, [("l", lock_key), ("clock", ""), ("held", account), ("queue", lock_key)]);
        keys
    }

    /// Adds the other keys.
    pub(super) fn add_remaining(&mut self, store: &Store, lock_key: &str, account: &str, charge: &RateCharge) {
        let others = [("entries", lock_key), ("reserved", lock_key), ("pods", ""), ("waiting", account), ("ended", "")];
        self.add(store, lock_key, others);
        self.bucket = match charge {
            RateCharge::InScript(bucket) => Some(bucket.key.clone()),
            RateCharge::Done => None,
        };
    }

    fn add<const N: usize>(&mut self, store: &Store, lock_key: &str, keys: [(&str, &str); N]) {
        let tag = store.shard_of(lock_key).tag;
        for (kind, of) in keys {
            self.names.write(|text| store.write_key(text, tag, kind, of));
        }
    }

    pub(super) fn lock(&self) -> &str {
        self.names.get(0)
    }

    pub(super) fn clock(&self) -> &str {
        self.names.get(1)
    }

    pub(super) fn held(&self) -> &str {
        self.names.get(2)
    }

    pub(super) fn queue(&self) -> &str {
        self.names.get(3)
    }

    pub(super) fn entries(&self) -> &str {
        self.names.get(4)
    }

    pub(super) fn reserved(&self) -> &str {
        self.names.get(5)
    }

    pub(super) fn slices(&self) -> KeySlices<'_> {
        self.names.iter().chain(self.bucket.as_deref()).collect()
    }
}

/// The rate arguments of scripts: the interval and the burst in microseconds; empty if the
/// request is already charged.
pub(super) fn rate_args(charge: &RateCharge) -> [String; 2] {
    match charge {
        RateCharge::Done => Default::default(),
        RateCharge::InScript(bucket) => {
            let interval_us = bucket.rate.interval_us();
            [interval_us.to_string(), (interval_us * f64::from(bucket.rate.burst)).to_string()]
        }
    }
}

/// Appends the rate arguments, or nothing if the request is already charged: every argument
/// costs time in Redis.
pub(super) fn write_rate(args: &mut ScriptArgs, charge: &RateCharge) {
    if let RateCharge::InScript(bucket) = charge {
        let interval_us = bucket.rate.interval_us();
        args.display(interval_us).display(interval_us * f64::from(bucket.rate.burst));
    }
}

/// Writes the fence that the grant must have; empty for any.
pub(super) fn write_fence(text: &mut String, fence: Option<FencingToken>) {
    if let Some(fence) = fence {
        text.push_str(itoa::Buffer::new().format(fence.as_u64()));
    }
}

/// Decodes the second field of every reply: the backlog of the rate bucket.
pub(super) fn read_rate_status(reply: &Reply, charge: &RateCharge) -> Result<Option<RateStatus>, BadReply> {
    match charge {
        RateCharge::Done => Ok(None),
        RateCharge::InScript(bucket) => Ok(Some(RateStatus::from_backlog_us(bucket.rate, reply.word(1)?))),
    }
}

#[cfg(test)]
impl AcquireRequest {
    /// A request of an account with defaults, for tests.
    pub(super) fn of(account: AccountId) -> Self {
        Self {
            lock: LockKey { namespace: NamespaceId::Public, name: LockName::parse("x").unwrap() },
            claimant: Claimant { account, owner: None },
            lease: Lease::from_secs(60),
            is_lease_asked: false,
            label: Label::parse("first").unwrap(),
            token: TokenEnd::of(account.0),
            note: Note::default(),
            info: Info::default(),
            held_max: 1000,
            waiting_max: 100,
            charge: RateCharge::Done,
        }
    }
}
