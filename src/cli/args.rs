use std::time::Duration;

use crate::{
    client::{Error, LockRequest},
    lock::parse_duration_ms,
};

/// Which lock is meant.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct LockArgs {
    /// The lock
    pub name: String,

    /// Who holds the lock within the account
    #[arg(long)]
    pub owner: Option<String>,

    /// The namespace of the lock; the token's own unless set
    #[arg(long)]
    pub namespace: Option<String>,
}

/// How a lock is to be held.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct HoldArgs {
    /// How long the lock is held without a heartbeat; the account's own lease unless set
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub lease: Option<Duration>,

    /// What others of the account can read who are refused
    #[arg(long)]
    pub note: Option<String>,
}

impl LockArgs {
    /// # Errors
    /// When locks or owners cannot be called so.
    pub fn request(&self) -> Result<LockRequest, Error> {
        let mut request = LockRequest::new(&self.name)?;
        if let Some(owner) = &self.owner {
            request = request.owner(owner)?;
        }
        if let Some(namespace) = &self.namespace {
            request = request.namespace(namespace);
        }
        Ok(request)
    }
}

impl HoldArgs {
    pub fn apply(&self, mut request: LockRequest) -> LockRequest {
        if let Some(lease) = self.lease {
            request = request.lease(lease);
        }
        if let Some(note) = &self.note {
            request = request.note(note);
        }
        request
    }
}

/// Reads a duration in the form that the API has for it, such as `90s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration_ms(text).map(Duration::from_millis).map_err(|error| error.to_string())
}
