use std::time::Duration;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::lock::{AccountId, Fence, Grant, Held, LockName, Namespace, NotHeld, Owner};

/// An answer to a request about a lock. `response` stands first: for clients of
/// the documented API it is all there is.
#[derive(Serialize, ToSchema)]
pub(super) struct LockAnswer<'a, T> {
    response: bool,
    name: &'a str,
    namespace: &'a str,
    #[serde(flatten)]
    more: T,
}

/// What comes with a grant that was made.
#[derive(Serialize, ToSchema)]
pub(super) struct Granted<'a> {
    owner: Option<&'a str>,
    #[serde(flatten)]
    renewed: Renewed,
}

/// What comes with a grant that was renewed.
#[derive(Serialize, ToSchema)]
pub(super) struct Renewed {
    #[schema(value_type = u64, maximum = 9_007_199_254_740_991_u64)]
    fencing_token: Fence,
    lease_ms: u64,
    #[serde(serialize_with = "rfc_3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// Why the answer is no, for programs.
#[derive(Serialize, ToSchema)]
pub(super) struct NotAcquired<'a> {
    reason: &'static str,
    retry_after_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<ShownHolder<'a>>,
}

#[derive(Serialize, ToSchema)]
struct ShownHolder<'a> {
    owner: Option<&'a str>,
    note: &'a str,
    #[serde(serialize_with = "rfc_3339")]
    #[schema(value_type = String, format = DateTime)]
    acquired_at: Timestamp,
    #[serde(serialize_with = "rfc_3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

#[derive(Serialize, ToSchema)]
pub(super) struct NotChanged {
    reason: &'static str,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Nothing {}

impl<'a, T: Serialize> LockAnswer<'a, T> {
    pub(super) fn yes(name: &'a LockName, namespace: &'a Namespace, more: T) -> Response {
        let answer = Self { response: true, name: name.as_str(), namespace: &namespace.name, more };
        Json(answer).into_response()
    }

    /// A no is an answer like any other, unless the client wants to fail on it.
    pub(super) fn no(name: &'a LockName, namespace: &'a Namespace, strict: bool, more: T) -> Response {
        let status = if strict { StatusCode::LOCKED } else { StatusCode::OK };
        let answer = Self { response: false, name: name.as_str(), namespace: &namespace.name, more };
        (status, Json(answer)).into_response()
    }
}

impl<'a> Granted<'a> {
    pub(super) fn new(grant: &Grant, owner: Option<&'a Owner>) -> Self {
        Self { owner: owner.map(Owner::as_str), renewed: Renewed::new(grant) }
    }
}

impl Renewed {
    pub(super) fn new(grant: &Grant) -> Self {
        Self { fencing_token: grant.fence, lease_ms: grant.lease.as_ms(), expires_at: grant.expires_at }
    }
}

impl<'a> NotAcquired<'a> {
    pub(super) const HELD: &'static str = "held";
    pub(super) const TIMED_OUT: &'static str = "timed_out";
    pub(super) const DRAINING: &'static str = "draining";

    /// `held` is what is known of the lock; its holder is shown to callers of
    /// the same account alone.
    pub(super) fn new(reason: &'static str, held: Option<&'a Held>, caller: AccountId) -> Self {
        let of_caller = held.map(|held| &held.holder).filter(|holder| holder.account == caller);
        let holder = of_caller.map(|holder| ShownHolder {
            owner: holder.owner.as_ref().map(Owner::as_str),
            note: holder.note.as_str(),
            acquired_at: holder.acquired_at,
            expires_at: holder.expires_at,
        });
        let retry_after_ms = match reason {
            // Another server takes the request at once.
            Self::DRAINING => 0,
            _ => held.map_or(0, |held| held.rest.as_millis() as u64),
        };
        Self { reason, retry_after_ms, holder }
    }
}

impl NotAcquired<'_> {
    /// Grants may have been forgotten, and nobody is granted any until then.
    pub(super) fn recovering(rest: Duration) -> Self {
        Self { reason: "recovering", retry_after_ms: rest.as_millis() as u64, holder: None }
    }
}

impl From<NotHeld> for NotChanged {
    fn from(reason: NotHeld) -> Self {
        Self {
            reason: match reason {
                NotHeld::Free => "not_held",
                NotHeld::HeldByAnother => "held_by_another",
            },
        }
    }
}

/// UTC with milliseconds, always three digits of them.
pub(super) fn rfc_3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}
