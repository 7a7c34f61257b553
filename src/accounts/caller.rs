use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Plan, change::now_ms};
use crate::lock::{AccountId, Label, Lease, Namespace, NamespaceId};

/// Whose a token is, and what it allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub account: AccountId,
    /// The token's id, which is no secret.
    pub token: Uuid,
    pub label: Label,
    pub scopes: Scopes,
    pub suspended: bool,
    pub plan: Plan,
    /// The account's own lease, if it has set one.
    pub own_lease: Option<Lease>,
    /// The private namespaces of the account.
    pub namespaces: Vec<Namespace>,
    pub default_namespace: NamespaceId,
    /// When the token was last noted to be in use, in hours since 1970.
    pub last_used_hour: Option<i64>,
    /// When the token ends, in milliseconds since 1970; none for one that does
    /// not by itself. Servers of an earlier version leave it out.
    #[serde(default)]
    pub expires_at: Option<i64>,
}

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes {
    /// Acquire, heartbeat and release.
    pub lock: bool,
    /// Look after the account: break locks, for one.
    pub manage: bool,
}

/// A lease that the plan does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan {plan:?} has leases from {min} to {max}")]
pub struct LeaseOutOfRange {
    pub plan: String,
    pub min: Lease,
    pub max: Lease,
}

/// A namespace that is not the caller's: there is none of the name, or it is of
/// another account, which is not told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceDenied {
    #[error("the account has no namespace {0:?}")]
    NotItsOwn(String),
    #[error("the plan {0:?} has no private namespaces, and this token is for one")]
    NotInPlan(String),
}

static PUBLIC: std::sync::LazyLock<Namespace> = std::sync::LazyLock::new(Namespace::public);

impl Caller {
    /// Whether the token has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.expires_at.is_some_and(|end| end <= now_ms())
    }

    /// How long until the token ends by itself; `None` for one that does not.
    pub fn rest(&self) -> Option<Duration> {
        self.expires_at.map(|end| Duration::from_millis(end.saturating_sub(now_ms()).max(0) as u64))
    }

    /// Whether the token may be used in a namespace.
    pub fn has_namespace(&self, id: NamespaceId) -> bool {
        let is_own = || self.namespaces.iter().any(|namespace| namespace.id == id);
        id == NamespaceId::Public || (self.plan.private_namespaces && is_own())
    }

    /// The namespace of that name, or the token's default one.
    ///
    /// # Errors
    /// When it is not the account's, or its plan has none. A token whose default
    /// is private never falls back to the public namespace: its locks would
    /// meet other accounts' there.
    pub fn namespace(&self, name: Option<&str>) -> Result<&Namespace, NamespaceDenied> {
        let found = match name {
            Some(Namespace::PUBLIC) => return Ok(&PUBLIC),
            None if self.default_namespace == NamespaceId::Public => return Ok(&PUBLIC),
            None if !self.plan.private_namespaces => {
                return Err(NamespaceDenied::NotInPlan(self.plan.name.clone()));
            }
            Some(_) if !self.plan.private_namespaces => None,
            Some(name) => self.namespaces.iter().find(|namespace| namespace.name == name),
            None => self.namespaces.iter().find(|namespace| namespace.id == self.default_namespace),
        };
        found.ok_or_else(|| NamespaceDenied::NotItsOwn(name.unwrap_or_default().to_owned()))
    }

    /// The lease that is asked for, or the account's own, or the plan's.
    ///
    /// # Errors
    /// When what is asked for is outside the plan's range. An account's own
    /// lease from an earlier plan is brought into it.
    pub fn lease(&self, asked: Option<Lease>) -> Result<Lease, LeaseOutOfRange> {
        let Plan { lease_min: min, lease_max: max, .. } = self.plan;
        match asked {
            Some(lease) if lease < min || max < lease => {
                Err(LeaseOutOfRange { plan: self.plan.name.clone(), min, max })
            }
            Some(lease) => Ok(lease),
            None => Ok(self.own_lease.unwrap_or(self.plan.lease_default).max(min).min(max)),
        }
    }
}
