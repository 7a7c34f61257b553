use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{accounts::AccountsError, app::BreakError, locks::LocksError, store::StoreError};

/// A problem response (RFC 9457): the request got neither `true` nor `false`.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: ProblemKind,
    detail: String,
    retry_after: Option<Duration>,
}

macro_rules! problem_kinds {
    ($($kind:ident $status:ident $slug:literal $title:literal $explanation:literal)*) => {
        /// The kinds of problems. Each has a page at `/problems/{slug}`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum ProblemKind { $($kind),* }

        impl ProblemKind {
            const ALL: &[Self] = &[$(Self::$kind),*];

            fn info(self) -> ProblemKindInfo {
                match self {
                    $(Self::$kind => ProblemKindInfo {
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

struct ProblemKindInfo {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
    explanation: &'static str,
}

problem_kinds! {
    MalformedRequest BAD_REQUEST "malformed-request" "Malformed request"
        "The headers of the request are ambiguous: another server or proxy could read them differently. Send exactly one Host header over HTTP/1.1, and a body either with Content-Length or with the transfer coding \"chunked\"."
    MalformedName BAD_REQUEST "malformed-name" "Malformed lock name"
        "The lock name in the path is not valid. A name has 1 to 200 bytes of UTF-8, percent-encoded in the path. It contains no control characters, no invisible characters and no characters that reorder text, and does not begin or end with white space. It may contain \"/\", but no segment may be empty, \".\" or \"..\"."
    MalformedParameter BAD_REQUEST "malformed-parameter" "Malformed parameter"
        "A parameter is unknown, repeated, or has a malformed value. The server changed nothing: a mistyped parameter must not silently select another lock or another lease. Correct the parameter that the detail names."
    MalformedBody BAD_REQUEST "malformed-body" "Malformed body"
        "The server cannot parse the body, or the method allows none. Send the parameters of a POST as a form or as one JSON object. Numbers in JSON are integers of at most 64 bits. GET, HEAD and DELETE have no body."
    Unauthenticated UNAUTHORIZED "unauthenticated" "Not authenticated"
        "The token is missing, wrong, expired or revoked; the response does not distinguish these. Send the token as the user name of HTTP basic authentication, with an empty password (curl -u TOKEN: ...), or as Authorization: Bearer TOKEN."
    AccountSuspended FORBIDDEN "account-suspended" "Account suspended"
        "The operator of this server suspended the account. Its tokens work again after the operator resumes it."
    ScopeMissing FORBIDDEN "scope-missing" "Missing token scope"
        "The token does not have the scope that this request needs. The scope \"lock\" allows acquires, heartbeats and releases; the scope \"manage\" allows managing the account. Use a token with the scope that the detail names."
    LeaseOutOfRange FORBIDDEN "lease-out-of-range" "Lease outside the plan's range"
        "The requested lease is shorter or longer than the plan allows. Request a lease within the range in the detail, or omit \"lease\" to get the account's default."
    NamespaceDenied FORBIDDEN "namespace-denied" "Not a namespace of this account"
        "The account has no namespace of this name, or its plan has no private namespaces. Use \"public\" or a private namespace of the account."
    PrefetchRefused FORBIDDEN "prefetch-refused" "Prefetches are refused"
        "A browser or proxy marked the request as a prefetch. A prefetch must not change a lock, so the server refused it. Send the request without the Purpose and Sec-Purpose headers."
    NotFound NOT_FOUND "not-found" "Not found"
        "The server has no route for this path. Check the URL; /openapi.json lists all routes of the API."
    MethodNotAllowed METHOD_NOT_ALLOWED "method-not-allowed" "Method not allowed"
        "This route does not support the request's method. The Allow header lists the supported methods."
    ClientGone REQUEST_TIMEOUT "client-gone" "Client disconnected"
        "The client closed its connection, or its sending side, while its request waited for a lock. The server reverted the request. Keep the sending side open until the response."
    BodyTooSlow REQUEST_TIMEOUT "body-too-slow" "Body not received in time"
        "The server did not receive the whole body within five seconds, and changed nothing. Retry."
    BodyTooLarge PAYLOAD_TOO_LARGE "body-too-large" "Body too large"
        "The body is longer than 16 KiB. Send a shorter one."
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" "Unsupported media type"
        "The server cannot parse a body of this media type. Send a form (application/x-www-form-urlencoded) or JSON (application/json)."
    RateLimited TOO_MANY_REQUESTS "rate-limited" "Too many requests"
        "The account used up the request rate of its plan, which applies to all its tokens on all servers together. Heartbeats and releases have a separate rate of the same size. The RateLimit and RateLimit-Policy headers describe the current state. Retry after the time in Retry-After."
    TooManyLocks TOO_MANY_REQUESTS "too-many-locks" "Too many locks held"
        "The account holds as many locks as its plan allows. Release locks, or wait until leases expire."
    TooManyWaiting TOO_MANY_REQUESTS "too-many-waiting" "Too many queued requests"
        "The account has as many queued requests as its plan allows. Retry later, or send the acquire without \"wait\": the server then answers at once."
    TooManyChanges TOO_MANY_REQUESTS "too-many-changes" "Too many account changes"
        "The account made too many changes. Every break of a lock and every change on the account page adds a permanent row to the audit log, so an account may make 200 changes at once, and one every five seconds after that. Retry after the time in Retry-After."
    TooManyFailures TOO_MANY_REQUESTS "too-many-failures" "Too many failed authentications"
        "Too many requests from this address had an invalid token, or one that the server could not look up in time. Tokens that the server has cached still work from this address. Correct the token, and retry after the time in Retry-After."
    TooManyLookups TOO_MANY_REQUESTS "too-many-lookups" "Too many new tokens at once"
        "The server looks up a limited number of tokens per client address at once, and the queue of this address is full. Tokens used within the last seconds are cached and still work. Retry after the time in Retry-After."
    Internal INTERNAL_SERVER_ERROR "internal" "Internal error"
        "The server failed unexpectedly. The request may have had its effect. Report the request id (X-Request-Id) to the operator, who finds the cause under this id in the server's log."
    Unavailable SERVICE_UNAVAILABLE "unavailable" "Temporarily unavailable"
        "The server is overloaded, or could not reach the lock store or the account database in time. An acquire with this response leaves no lock behind; a heartbeat or a release may have had its effect. Retry after the time in Retry-After."
}

/// Problem details (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(super) struct ProblemView<'a> {
    /// The path of a page that explains this kind of problem.
    r#type: String,
    title: &'a str,
    status: u16,
    /// The cause in this request.
    detail: &'a str,
    /// The time after which to retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// The id of the request in the server's log.
    request_id: &'a str,
}

impl Problem {
    pub(super) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None }
    }

    /// Sets the time after which to retry.
    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub fn status(&self) -> StatusCode {
        self.kind.info().status
    }

    pub fn title(&self) -> &'static str {
        self.kind.info().title
    }

    /// The cause in this request.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The time after which to retry.
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The body of the response. The request id refers to the log line of the request.
    pub(super) fn body(&self, request_id: &str) -> Body {
        let ProblemKindInfo { status, slug, title, .. } = self.kind.info();
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

    /// An unexpected failure. The caller has logged its cause.
    pub fn internal() -> Self {
        Self::new(ProblemKind::Internal, "the server failed unexpectedly; report the request id to the operator")
    }

    pub(super) fn unavailable(detail: &str) -> Self {
        Self::new(ProblemKind::Unavailable, detail).retry_after(Duration::from_secs(1))
    }
}

impl From<LocksError> for Problem {
    fn from(error: LocksError) -> Self {
        match error {
            LocksError::Store(error) => error.into(),
            LocksError::Full => Self::unavailable("this server's limit of queued requests is reached; retry"),
            LocksError::Foreign => {
                Self::unavailable("this server has not verified its lock store against the account database; retry")
            }
            LocksError::Unsettled => {
                Self::unavailable("the server is still restoring grants after a loss of data; retry")
            }
            LocksError::Journal(error) => {
                tracing::warn!(%error, "granting a long lease failed");
                Self::unavailable("the journal did not record the long lease in time; retry")
            }
            LocksError::TooLate => {
                Self::unavailable("the request reached the lock store after its deadline and changed nothing; retry")
            }
            LocksError::Reply(error) => {
                tracing::error!(%error, "a script returned an unexpected reply");
                Self::internal()
            }
        }
    }
}

impl From<AccountsError> for Problem {
    fn from(error: AccountsError) -> Self {
        tracing::warn!(%error, "account database request failed");
        Self::unavailable("the account database did not answer in time; retry")
    }
}

impl From<BreakError> for Problem {
    fn from(error: BreakError) -> Self {
        match error {
            BreakError::Accounts(error) => error.into(),
            BreakError::Locks(error) => error.into(),
            BreakError::TooOften { retry_after } => Self::new(
                ProblemKind::TooManyChanges,
                "this account made too many changes or breaks recently; retry later",
            )
            .retry_after(retry_after),
            BreakError::Ended => Self::internal(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        // The store logs a lost connection once; a refused command is logged only here.
        match error {
            StoreError::Refused(_) => tracing::warn!(%error, "lock store refused a command"),
            StoreError::NotSent(_) | StoreError::NoAnswer(_) => tracing::debug!(%error, "lock store request failed"),
        }
        Self::unavailable("the lock store did not answer in time; retry")
    }
}

/// The body is written by `RequestTracker::finish`, which knows the request id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.info().status;
        let mut response = status.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"lockable\""));
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up, so that no retry comes too early.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000) as u64));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The explanation of a kind of problem, for people.
#[derive(Clone, Copy, Debug)]
pub struct ProblemExplanation {
    /// The last segment of its path.
    pub slug: &'static str,
    pub title: &'static str,
    pub status: u16,
    pub explanation: &'static str,
}

/// The explanations of all kinds of problems.
pub fn problem_explanations() -> impl Iterator<Item = ProblemExplanation> {
    ProblemKind::ALL.iter().map(|kind| {
        let ProblemKindInfo { status, slug, title, explanation } = kind.info();
        ProblemExplanation { slug, title, status: status.as_u16(), explanation }
    })
}
