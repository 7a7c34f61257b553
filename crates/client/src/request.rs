use std::time::Duration;

use lockable_protocol::{LockName, Owner};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::Error;

/// A lock key, an owner, and the lease and note of the grant.
#[derive(Clone, Debug)]
pub struct LockRequest {
    pub(super) name: LockName,
    pub(super) owner: Option<Owner>,
    pub(super) namespace: Option<String>,
    pub(super) lease: Option<Duration>,
    pub(super) note: Option<String>,
}

impl LockRequest {
    /// A request for the lock with this name, in the token's default namespace.
    ///
    /// # Errors
    /// When the name is invalid.
    pub fn new(name: &str) -> Result<Self, Error> {
        let name =
            LockName::parse(name).map_err(|error| Error::Malformed(format!("invalid lock name {name:?}: {error}")))?;
        Ok(Self { name, owner: None, namespace: None, lease: None, note: None })
    }

    /// Sets the holder's name within the account. A repeated request of one owner returns its grant or
    /// takes over its position in the queue.
    ///
    /// # Errors
    /// When the owner is invalid.
    pub fn owner(mut self, owner: &str) -> Result<Self, Error> {
        let parsed =
            Owner::parse(owner).map_err(|error| Error::Malformed(format!("invalid owner {owner:?}: {error}")))?;
        self.owner = Some(parsed);
        Ok(self)
    }

    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets the lease; the default is the account's.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Sets the text shown to callers of the same account while the lock is held.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    pub(super) fn path(&self, route: &str) -> String {
        format!("/v1/{route}/{}", utf8_percent_encode(self.name.as_str(), NON_ALPHANUMERIC))
    }

    /// The parameters in `names` that are set.
    pub(super) fn parameters(&self, names: &[&'static str]) -> Vec<(&'static str, String)> {
        let all = [
            ("owner", self.owner.as_ref().map(|owner| owner.as_str().to_owned())),
            ("namespace", self.namespace.clone()),
            ("lease", self.lease.map(milliseconds)),
            ("note", self.note.clone()),
        ];
        all.into_iter()
            .filter(|(name, _)| names.contains(name))
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

pub(super) fn milliseconds(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}
