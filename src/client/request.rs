use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::Error;
use crate::lock::{LockName, Owner};

/// Which lock is meant, and how it is to be held.
#[derive(Clone, Debug)]
pub struct LockRequest {
    pub(super) name: LockName,
    pub(super) owner: Option<Owner>,
    pub(super) namespace: Option<String>,
    pub(super) lease: Option<Duration>,
    pub(super) note: Option<String>,
}

impl LockRequest {
    /// The lock of this name, in the token's default namespace.
    ///
    /// # Errors
    /// When locks cannot be called so.
    pub fn new(name: &str) -> Result<Self, Error> {
        let name = LockName::parse(name).map_err(|error| Error::Malformed(format!("{name:?} is no name: {error}")))?;
        Ok(Self { name, owner: None, namespace: None, lease: None, note: None })
    }

    /// Who holds it within the account. Repeated requests of one owner are one.
    ///
    /// # Errors
    /// When owners cannot be called so.
    pub fn owner(mut self, owner: &str) -> Result<Self, Error> {
        let parsed =
            Owner::parse(owner).map_err(|error| Error::Malformed(format!("{owner:?} is no owner: {error}")))?;
        self.owner = Some(parsed);
        Ok(self)
    }

    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// How long it is held unless renewed; the account's own lease if not set.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// What those can read who are refused, if they are of the same account.
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

    /// Those of the parameters that `names` has, and are set.
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
