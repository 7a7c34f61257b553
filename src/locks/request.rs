use std::fmt;

use crate::{
    keyspace::{BadReply, Keyspace, Reply},
    lock::{AccountId, Fence, Label, Lease, LockName, NamespaceId, Note, Owner, Payment, RateStanding},
};

/// Which lock is meant. Its text is its place in the index of held locks.
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
    /// The label of the token that is used.
    pub label: Label,
    pub note: Note,
    /// How many locks the account may hold at once.
    pub held_max: u64,
    pub payment: Payment,
}

/// What a heartbeat asks for.
#[derive(Clone, Debug)]
pub struct HeartbeatRequest {
    pub lock: LockId,
    pub claimant: Claimant,
    pub lease: Lease,
    /// Renew only the grant with this fence.
    pub fence: Option<Fence>,
    pub payment: Payment,
}

/// What a release asks for.
#[derive(Clone, Debug)]
pub struct ReleaseRequest {
    pub lock: LockId,
    pub claimant: Claimant,
    /// Release only the grant with this fence.
    pub fence: Option<Fence>,
    pub payment: Payment,
}

/// An outcome, and how the token stands with its rate if the script counted
/// the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    pub outcome: T,
    pub standing: Option<RateStanding>,
}

impl Claimant {
    /// The owner as scripts take it: empty for none.
    pub(super) fn owner_text(&self) -> &str {
        self.owner.as_ref().map_or("", Owner::as_str)
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The hash tag of all that belongs to locks. One slot, until there is a
/// cluster to spread them over.
const LOCK_TAG: &str = "0";

/// The script in the file of that name, behind what all scripts share.
macro_rules! script {
    ($name:literal) => {
        Script::new(
            $name,
            concat!(include_str!("../../lua/prelude.lua"), include_str!(concat!("../../lua/", $name, ".lua"))),
        )
    };
}
pub(super) use script;

/// The names of the keys that an operation on a lock touches.
pub(super) struct Keys {
    pub lock: String,
    pub clock: String,
    pub held: String,
    pub bucket: String,
}

impl Keys {
    pub(super) fn new(keyspace: &Keyspace, place: &str, account: &str, payment: &Payment) -> Self {
        let bucket = match payment {
            Payment::Due(due) => due.bucket.clone(),
            // Named all the same, so that a script always has the same keys.
            Payment::Paid => keyspace.key(LOCK_TAG, "rate", "-"),
        };
        Self {
            lock: keyspace.key(LOCK_TAG, "lock", place),
            clock: keyspace.key(LOCK_TAG, "clock", ""),
            held: keyspace.key(LOCK_TAG, "held", account),
            bucket,
        }
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

/// The second word of every reply: how far ahead the rate's bucket is.
pub(super) fn read_standing(reply: &Reply, payment: &Payment) -> Result<Option<RateStanding>, BadReply> {
    match payment {
        Payment::Paid => Ok(None),
        Payment::Due(due) => Ok(Some(RateStanding::from_backlog_us(due.rate, reply.word(1)?))),
    }
}
