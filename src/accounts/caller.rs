use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Plan, change::now_ms};
use crate::lock::{AccountId, Label, Lease, Namespace, NamespaceId};

/// The account, scopes and plan of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub account: AccountId,
    /// The token's id, which is not secret.
    pub token: Uuid,
    pub label: Label,
    pub scopes: Scopes,
    pub suspended: bool,
    pub plan: Plan,
    /// The account's default lease; `None` selects the plan's.
    pub own_lease: Option<Lease>,
    /// The private namespaces of the account.
    pub namespaces: Vec<Namespace>,
    pub default_namespace: NamespaceId,
    /// The last recorded use of the token, in hours since 1970.
    pub last_used_hour: Option<i64>,
    /// When the token expires, in milliseconds since 1970; `None` for never. Servers of an earlier
    /// version omit it.
    #[serde(default)]
    pub expires_at: Option<i64>,
}

/// The scopes of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes {
    /// Acquire, heartbeat and release locks.
    pub lock: bool,
    /// Manage the account, for example break locks.
    pub manage: bool,
}

/// The requested lease is outside the plan's range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan {plan:?} allows leases from {min} to {max}")]
pub struct LeaseOutOfRange {
    pub plan: String,
    pub min: Lease,
    pub max: Lease,
}

/// The caller cannot use the namespace. A namespace of another account is not distinguished from a
/// missing one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceDenied {
    #[error("the account has no namespace {0:?}")]
    NotItsOwn(String),
    #[error("the default namespace of the token is private, but the plan {0:?} has no private namespaces")]
    NotInPlan(String),
}

static PUBLIC: std::sync::LazyLock<Namespace> = std::sync::LazyLock::new(Namespace::public);

impl Caller {
    /// Whether the token has expired.
    pub fn is_expired(&self) -> bool {
        self.expires_at.is_some_and(|end| end <= now_ms())
    }

    /// Returns the time until the token expires; `None` for a token without an expiry.
    pub fn remaining(&self) -> Option<Duration> {
        self.expires_at.map(|end| Duration::from_millis(end.saturating_sub(now_ms()).max(0) as u64))
    }

    /// Whether the caller can use a namespace.
    pub fn has_namespace(&self, id: NamespaceId) -> bool {
        let is_own = || self.namespaces.iter().any(|namespace| namespace.id == id);
        id == NamespaceId::Public || (self.plan.private_namespaces && is_own())
    }

    /// Returns the namespace with this name, or the token's default namespace.
    ///
    /// # Errors
    /// If the account does not have it, or the plan has no private namespaces. A token with a
    /// private default namespace never falls back to the public one: its locks would collide with
    /// other accounts' locks there.
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

    /// Returns the requested lease, or the account's default, or the plan's.
    ///
    /// # Errors
    /// If the requested lease is outside the plan's range. An account's default from an earlier
    /// plan is clamped to it.
    pub fn lease(&self, requested: Option<Lease>) -> Result<Lease, LeaseOutOfRange> {
        let Plan { lease_min: min, lease_max: max, .. } = self.plan;
        match requested {
            Some(lease) if lease < min || max < lease => {
                Err(LeaseOutOfRange { plan: self.plan.name.clone(), min, max })
            }
            Some(lease) => Ok(lease),
            None => Ok(self.own_lease.unwrap_or(self.plan.lease_default).max(min).min(max)),
        }
    }
}
