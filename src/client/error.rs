use std::time::Duration;

use serde::Deserialize;

use super::Refusal;

/// Why there is neither a yes nor a no.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that was asked for can never be.
    #[error("{0}")]
    Malformed(String),
    /// No server, or no answer in time.
    #[error("{origin} cannot be reached: {reason}")]
    Unreachable { origin: String, reason: String },
    /// The server's own words.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// Something else than a server of Lockable.
    #[error("{origin} does not answer as Lockable does: {what}")]
    Stranger { origin: String, what: String },
    /// The lock was not granted in time.
    #[error("the lock was not granted in time")]
    NotAcquired(Box<Refusal>),
}

/// A problem document, as the server sent it.
#[derive(Clone, Debug, Default, Deserialize, thiserror::Error)]
#[error("{title}: {detail} (request {request_id})")]
#[serde(default)]
pub struct Problem {
    pub status: u16,
    /// What kind it is: the last part of its address.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub detail: String,
    pub request_id: String,
    /// When to ask again, if the server says so.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl Error {
    /// Whether the same request may succeed later: the server was away, or too
    /// busy for this one.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 408 | 429 | 500..),
            Self::Stranger { .. } | Self::Malformed(_) | Self::NotAcquired(_) => false,
        }
    }

    /// When to ask again, if the server says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            _ => None,
        }
    }
}
