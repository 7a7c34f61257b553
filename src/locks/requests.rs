use std::{fmt, str::FromStr, sync::Arc};

use super::script_args::{KeySlices, Words};
use crate::{
    lock::{
        AccountId, FencingToken, Info, Label, Lease, LockName, NamespaceId, Note, Owner, Payment, RateStanding,
        TokenEnd,
    },
    store::{BadReply, Reply, Store},
};

/// Which lock is meant. Its text is its member in the index of held locks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockId {
    pub namespace: NamespaceId,
    pub name: LockName,
}

/// Who asks: what is compared with the holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    pub account: AccountId,
    pub owner: Option<Owner>,
}

/// What an acquire asks for.
#[derive(Clone, Debug)]
pub struct AcquireRequest {
    pub lock: LockId,
    pub claimant: Claimant,
    pub lease: Lease,
    /// The client has asked for this lease: a heartbeat that asks for none has the same.
    pub is_lease_asked: bool,
    /// The label of the token that is used, and the end of its id.
    pub label: Label,
    pub token: TokenEnd,
    pub note: Note,
    pub info: Info,
    /// How many locks the account may hold at once.
    pub held_max: u64,
    /// With how many requests the account may wait at once.
    pub waiting_max: u64,
    pub payment: Payment,
}

/// What a heartbeat asks for.
#[derive(Clone, Debug)]
pub struct HeartbeatRequest {
    pub lock: LockId,
    pub claimant: Claimant,
    pub lease: RenewedLease,
    /// Renew only the grant with this fence.
    pub fence: Option<FencingToken>,
    pub payment: Payment,
}

/// The lease that a heartbeat asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewedLease {
    For(Lease),
    /// That which the holder asked for last, cut to the longest one of the plan.
    LastAsked {
        /// The lease of holders that never asked for one.
        default: Lease,
        max: Lease,
    },
}

/// What a release asks for.
#[derive(Clone, Debug)]
pub struct ReleaseRequest {
    pub lock: LockId,
    pub claimant: Claimant,
    /// Release only the grant with this fence.
    pub fence: Option<FencingToken>,
    /// The token that is used.
    pub token: TokenEnd,
    pub payment: Payment,
}

/// What breaking a lock asks for.
#[derive(Clone, Debug)]
pub struct BreakRequest {
    pub lock: LockId,
    /// Whose lock it must be.
    pub account: AccountId,
    /// The grant to break.
    pub fence: FencingToken,
}

/// An outcome, and how the token stands with its rate if the script counted
/// the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    pub outcome: T,
    pub standing: Option<RateStanding>,
}

impl Claimant {
    /// The owner as it is kept: empty for none.
    pub(super) fn owner_text(&self) -> &str {
        self.owner.as_ref().map_or("", Owner::as_str)
    }

    /// Writes who asks as scripts take it: what a grant begins with.
    pub(super) fn write_head(&self, text: &mut String) {
        for part in [self.account.key_text().as_str(), "\n", self.owner_text(), "\n"] {
            text.push_str(part);
        }
    }
}

impl AcquireRequest {
    /// What scripts keep of the holder beside who it is, see `lua/acquire.lua`: the lease that
    /// was asked for, and one field to a line, without those at the end that are empty.
    pub(super) fn write_about(&self, text: &mut String) {
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

impl LockId {
    /// Its lock key. Written by hand: every request needs it, and formatting costs
    /// more.
    pub(super) fn lock_key(&self) -> String {
        let (namespace, name) = (self.namespace.key_text(), self.name.as_str());
        let mut lock_key = String::with_capacity(namespace.as_str().len() + 1 + name.len());
        for part in [namespace.as_str(), "/", name] {
            lock_key.push_str(part);
        }
        lock_key
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lock_key())
    }
}

/// Reads a lock key.
impl FromStr for LockId {
    type Err = InvalidLockKey;

    fn from_str(lock_key: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = lock_key.split_once('/').ok_or(InvalidLockKey)?;
        let namespace = namespace.parse().map_err(|_| InvalidLockKey)?;
        Ok(Self { namespace, name: LockName::parse(name).map_err(|_| InvalidLockKey)? })
    }
}

/// A text that is no lock key of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no lock_key of a lock")]
pub struct InvalidLockKey;

/// A script made of files, one behind the other, the prelude first. A file that
/// returns where there is nothing more to do spares Redis the setting up of what
/// stands behind it.
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

/// The names of the keys of a lock and of an account, as `lua/keys.lua` lists
/// them.
pub(super) struct Keys {
    names: Words,
    /// None for a request that is paid for.
    bucket: Option<Arc<str>>,
}

impl Keys {
    /// Whether a script that was given a few keys needs no more. It has done nothing
    /// otherwise.
    pub(super) fn were_enough(reply: &Reply) -> bool {
        reply.status() != "too_few_keys"
    }

    pub(super) fn new(store: &Store, lock_key: &str, account: &str, payment: &Payment) -> Self {
        let mut keys = Self::few(store, lock_key, account);
        keys.complete(store, lock_key, account, payment);
        keys
    }

    /// The first of them, which are enough for most requests: each key takes Redis a
    /// quarter of a microsecond, of the ten that a request takes.
    pub(super) fn few(store: &Store, lock_key: &str, account: &str) -> Self {
        let mut keys = Self { names: Words::new(), bucket: None };
        keys.add(store, lock_key, [("l", lock_key), ("clock", ""), ("held", account), ("line", lock_key)]);
        keys
    }

    /// Adds the others.
    pub(super) fn complete(&mut self, store: &Store, lock_key: &str, account: &str, payment: &Payment) {
        let others = [("tickets", lock_key), ("kept", lock_key), ("pods", ""), ("waiting", account), ("ended", "")];
        self.add(store, lock_key, others);
        self.bucket = match payment {
            Payment::Due(due) => Some(due.bucket.clone()),
            Payment::Paid => None,
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

    pub(super) fn line(&self) -> &str {
        self.names.get(3)
    }

    pub(super) fn tickets(&self) -> &str {
        self.names.get(4)
    }

    pub(super) fn kept(&self) -> &str {
        self.names.get(5)
    }

    /// In the order in which scripts take them.
    pub(super) fn slices(&self) -> KeySlices<'_> {
        self.names.iter().chain(self.bucket.as_deref()).collect()
    }
}

/// The rate as scripts take it: the interval and the burst in microseconds,
/// empty when the request is paid for.
pub(super) fn rate_args(payment: &Payment) -> [String; 2] {
    match payment {
        Payment::Paid => Default::default(),
        Payment::Due(due) => {
            let interval_us = due.rate.interval_us();
            [interval_us.to_string(), (interval_us * f64::from(due.rate.burst)).to_string()]
        }
    }
}

/// The same, left out when it is paid for: what few requests need costs all.
pub(super) fn write_rate(words: &mut Words, payment: &Payment) {
    if let Payment::Due(due) = payment {
        let interval_us = due.rate.interval_us();
        words.shown(interval_us).shown(interval_us * f64::from(due.rate.burst));
    }
}

/// The fence that a grant must have, empty for whichever it has.
pub(super) fn write_fence(text: &mut String, fence: Option<FencingToken>) {
    if let Some(fence) = fence {
        text.push_str(itoa::Buffer::new().format(fence.as_u64()));
    }
}

/// The second word of every reply: how far ahead the rate's bucket is.
pub(super) fn read_standing(reply: &Reply, payment: &Payment) -> Result<Option<RateStanding>, BadReply> {
    match payment {
        Payment::Paid => Ok(None),
        Payment::Due(due) => Ok(Some(RateStanding::from_backlog_us(due.rate, reply.word(1)?))),
    }
}

#[cfg(test)]
impl AcquireRequest {
    /// A request of an account, for tests that look at little else of it.
    pub(super) fn of(account: AccountId) -> Self {
        Self {
            lock: LockId { namespace: NamespaceId::Public, name: LockName::parse("x").unwrap() },
            claimant: Claimant { account, owner: None },
            lease: Lease::from_secs(60),
            is_lease_asked: false,
            label: Label::parse("first").unwrap(),
            token: TokenEnd::of(account.0),
            note: Note::default(),
            info: Info::default(),
            held_max: 1000,
            waiting_max: 100,
            payment: Payment::Paid,
        }
    }
}
