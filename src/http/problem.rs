use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{accounts::AccountsError, app::BreakError, locks::LocksError, store::StoreError};

/// An answer that is neither yes nor no (RFC 9457).
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    retry_after: Option<Duration>,
}

macro_rules! kinds {
    ($($kind:ident $status:ident $slug:literal $title:literal $explanation:literal)*) => {
        /// What can be wrong. Each kind has an address that explains it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind { $($kind),* }

        impl Kind {
            const ALL: &[Self] = &[$(Self::$kind),*];

            fn describe(self) -> Description {
                match self {
                    $(Self::$kind => Description {
                        status: StatusCode::$status,
                        slug: $slug,
                        title: $title,
                        explanation: $explanation,
                    }),*
                }
            }
        }
    };
}

struct Description {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
    explanation: &'static str,
}

kinds! {
    MalformedRequest BAD_REQUEST "malformed-request" "Malformed request"
        "A request over HTTP/1.1 has exactly one field Host, and a body comes with its length or in chunks. Others could be understood differently by a proxy on the way."
    MalformedName BAD_REQUEST "malformed-name" "Malformed lock name"
        "A lock name is 1 to 200 bytes of UTF-8, percent-encoded in the address, without control characters, invisible characters or characters that reorder text, without white space at its ends. \"/\" may stand inside it, but no segment may be empty, \".\" or \"..\"."
    MalformedParameter BAD_REQUEST "malformed-parameter" "Malformed parameter"
        "A parameter is unknown here, given twice, or its value cannot be understood. Nothing was done: a mistyped parameter must not silently give another lock or another lease."
    MalformedBody BAD_REQUEST "malformed-body" "Malformed body"
        "The body of a POST is a form or one JSON object whose members are the parameters. Numbers are whole and have at most 64 bits. GET, HEAD and DELETE have no body."
    Unauthenticated UNAUTHORIZED "unauthenticated" "Not authenticated"
        "Send the token as the user name of HTTP basic authentication, with an empty password: curl -u TOKEN: ..., or as Authorization: Bearer TOKEN. The same is answered for a missing, a wrong and a revoked token."
    AccountSuspended FORBIDDEN "account-suspended" "Account suspended"
        "The operator has suspended this account. Its tokens work again once it is resumed."
    ScopeMissing FORBIDDEN "scope-missing" "The token may not do this"
        "A token has scopes: \"lock\" to acquire, heartbeat and release, \"manage\" to look after the account. Use a token that has the one that is needed."
    LeaseOutOfRange FORBIDDEN "lease-out-of-range" "Lease outside the plan's range"
        "Each plan says how short and how long a lease may be. Ask for one within the range that the answer names, or for none at all to get the account's own."
    NamespaceDenied FORBIDDEN "namespace-denied" "Not a namespace of this account"
        "A request may name \"public\" or a private namespace of its own account, if the plan has them."
    PrefetchRefused FORBIDDEN "prefetch-refused" "Prefetches are refused"
        "A browser or a proxy asked ahead of time. These routes change locks, so they answer only what somebody really asked."
    NotFound NOT_FOUND "not-found" "Not found"
        "There is nothing at this address."
    MethodNotAllowed METHOD_NOT_ALLOWED "method-not-allowed" "Method not allowed"
        "The field Allow of the answer names the methods that this address knows."
    ClientGone REQUEST_TIMEOUT "client-gone" "The client has hung up"
        "The client closed its connection while it waited for a lock. What it was given is taken back; this stands in the log only."
    BodyTooSlow REQUEST_TIMEOUT "body-too-slow" "The body took too long"
        "The body of a request has five seconds to come. Nothing was done."
    BodyTooLarge PAYLOAD_TOO_LARGE "body-too-large" "Body too large"
        "The body of a request is at most 16 KiB."
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" "Unsupported media type"
        "The body of a POST is application/x-www-form-urlencoded or application/json."
    RateLimited TOO_MANY_REQUESTS "rate-limited" "Too many requests"
        "The account has used up its plan's rate, which is counted over all its tokens and all servers together; heartbeats and releases have a rate of their own, as large. The fields RateLimit and RateLimit-Policy say how it stands; Retry-After says when to ask again."
    TooManyLocks TOO_MANY_REQUESTS "too-many-locks" "Too many locks held"
        "The account holds as many locks as its plan allows. Release some, or let them lapse."
    TooManyWaiting TOO_MANY_REQUESTS "too-many-waiting" "Too many requests wait"
        "The account waits for locks with as many requests as its plan allows. An acquire without \"wait\" is answered at once."
    TooManyChanges TOO_MANY_REQUESTS "too-many-changes" "Too many changes of the account"
        "Breaking a lock is recorded for ever, so an account may break 200 locks at once, and one every five seconds. Changes on the account page count, too. Ask again after Retry-After."
    TooManyFailures TOO_MANY_REQUESTS "too-many-failures" "Too many failed authentications"
        "From this address too many requests came with a token that nobody has, or that could not be looked up in time. Tokens that are in use are not held up by this; a new one may be, for as long as Retry-After says."
    TooManyLookups TOO_MANY_REQUESTS "too-many-lookups" "Too many new tokens at once"
        "The server looks up a few tokens at once for each address, and lets others wait for their turn; of this one too many wait already. Ask again after Retry-After. Tokens that were used in the last seconds are not held up by this."
    Internal INTERNAL_SERVER_ERROR "internal" "Internal error"
        "Something went wrong that should not. The request may or may not have been carried out; the log has more under the request's id (X-Request-Id)."
    Unavailable SERVICE_UNAVAILABLE "unavailable" "Temporarily unavailable"
        "The server could not ask in time those who know about locks or accounts. An acquire that is answered so leaves no lock behind; a heartbeat or a release may have been carried out. Ask again after Retry-After."
}

/// What is neither yes nor no, as RFC 9457 has it.
#[derive(Serialize, ToSchema)]
pub(super) struct ProblemView<'a> {
    /// Leads to an explanation.
    r#type: String,
    title: &'a str,
    status: u16,
    /// What is wrong with this request.
    detail: &'a str,
    /// When to ask again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// The request, as the log calls it.
    request_id: &'a str,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None }
    }

    /// Says when it is worth asking again.
    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub fn status(&self) -> StatusCode {
        self.kind.describe().status
    }

    pub fn title(&self) -> &'static str {
        self.kind.describe().title
    }

    /// What is wrong with the request.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// When it is worth asking again.
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What stands in the answer. The id leads to what the log has of the request.
    pub(super) fn body(&self, request_id: &str) -> Body {
        let Description { status, slug, title, .. } = self.kind.describe();
        let view = ProblemView {
            r#type: format!("/problems/{slug}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            retry_after_ms: self.retry_after.map(|wait| wait.as_millis() as u64),
            request_id,
        };
        Body::from(serde_json::to_vec(&view).unwrap_or_default())
    }

    /// Something that should not have happened, and is in the log.
    pub fn internal() -> Self {
        Self::new(Kind::Internal, "something went wrong here")
    }

    pub(super) fn unavailable(detail: &str) -> Self {
        Self::new(Kind::Unavailable, detail).retry_after(Duration::from_secs(1))
    }
}

impl From<LocksError> for Problem {
    fn from(error: LocksError) -> Self {
        match error {
            LocksError::Store(error) => error.into(),
            LocksError::Full => Self::unavailable("as many requests wait in this server as may"),
            LocksError::Foreign => {
                Self::unavailable("this server is not known to work with the store that has the locks")
            }
            LocksError::Unsettled => Self::unavailable("what is held is not known yet after a loss"),
            LocksError::Journal(error) => {
                tracing::warn!(%error, "a long lease was not granted");
                Self::unavailable("a long lease could not be written down in time")
            }
            LocksError::TooLate => Self::unavailable("the lock store was reached too late"),
            LocksError::Reply(error) => {
                tracing::error!(%error, "a script and its reader disagree");
                Self::internal()
            }
        }
    }
}

impl From<AccountsError> for Problem {
    fn from(error: AccountsError) -> Self {
        tracing::warn!(%error, "a request failed");
        Self::unavailable("accounts could not be asked in time")
    }
}

impl From<BreakError> for Problem {
    fn from(error: BreakError) -> Self {
        match error {
            BreakError::Accounts(error) => error.into(),
            BreakError::Locks(error) => error.into(),
            BreakError::TooOften { retry_after } => {
                Self::new(Kind::TooManyChanges, "this account has broken too many locks of late")
                    .retry_after(retry_after)
            }
            BreakError::Ended => Self::internal(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        // That Redis is away is logged where it is noticed, once; what it refuses
        // to do is known here alone.
        match error {
            StoreError::Refused(_) => tracing::warn!(%error, "a request failed"),
            StoreError::NotSent(_) | StoreError::NoAnswer(_) => tracing::debug!(%error, "a request failed"),
        }
        Self::unavailable("the lock store could not be asked in time")
    }
}

/// The body is written in `frame` when the request's id is known.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.describe().status;
        let mut response = status.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"lockable\""));
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up: who comes back then is not too early.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000) as u64));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// A kind of problem, for people.
#[derive(Clone, Copy, Debug)]
pub struct Explained {
    /// What its address ends with.
    pub slug: &'static str,
    pub title: &'static str,
    pub status: u16,
    pub explanation: &'static str,
}

/// All kinds of problems that the API answers with.
pub fn explained_problems() -> impl Iterator<Item = Explained> {
    Kind::ALL.iter().map(|kind| {
        let Description { status, slug, title, explanation } = kind.describe();
        Explained { slug, title, status: status.as_u16(), explanation }
    })
}
