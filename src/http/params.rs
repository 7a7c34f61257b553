//! The parameters of each request, and their parsers. `openapi/exact.rs` has the schemas of the
//! accepted values.

mod reader;

use std::time::Duration;

use axum::{extract::FromRequestParts, http::request::Parts};
use utoipa::{IntoParams, ToSchema};

pub use self::reader::Body;
pub(super) use self::reader::{BODY_BYTES_MAX, malformed, malformed_body, refuse_body};
use self::reader::{HttpBody, Params};
use super::{cursor, problem::Problem, request_context::RequestContext};
use crate::{
    lock::{FencingToken, Lease, LockName, Note, Owner, parse_duration_ms},
    locks::{Cursor, Locks},
};

/// The parameters of an acquire.
#[derive(IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub(super) struct AcquireParams {
    /// Namespace of the lock: "public" or a private namespace of the account. Any other gets 403.
    #[schema(example = "public")]
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// Name of one holder within the account, such as a CI job: up to 128 characters and 256 bytes.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub owner: Option<Owner>,
    /// Time until the grant expires unless renewed: seconds, or a number with `ms`, `s`, `m`, `h` or `d`. A lease
    /// outside the plan's range gets 403.
    #[schema(value_type = Option<String>, example = "90s")]
    #[param(value_type = Option<String>, example = "90s")]
    pub lease: Option<Lease>,
    /// Longest time to wait in the queue.
    #[schema(value_type = Option<String>, example = "30s")]
    #[param(value_type = Option<String>, example = "30s")]
    pub wait: Duration,
    /// Text shown to callers of the same account while the lock is held, at most 500 bytes.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub note: Note,
    /// Respond with status 423 instead of 200 when `response` is `false`.
    #[schema(value_type = Option<bool>)]
    #[param(value_type = Option<bool>)]
    pub strict: bool,
}

/// The parameters of a heartbeat.
#[derive(IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub(super) struct HeartbeatParams {
    /// Namespace of the lock: "public" or a private namespace of the account. Any other gets 403.
    #[schema(example = "public")]
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// Name of one holder within the account, such as a CI job: up to 128 characters and 256 bytes.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub owner: Option<Owner>,
    /// Time until the grant expires unless renewed: seconds, or a number with `ms`, `s`, `m`, `h` or `d`. A lease
    /// outside the plan's range gets 403.
    #[schema(value_type = Option<String>, example = "30s")]
    #[param(value_type = Option<String>, example = "30s")]
    pub lease: Option<Lease>,
    /// Apply only to the grant with this fencing token.
    #[schema(rename = "fencing_token", value_type = Option<u64>)]
    #[param(rename = "fencing_token", value_type = Option<u64>)]
    pub fence: Option<FencingToken>,
    /// Respond with status 423 instead of 200 when `response` is `false`.
    #[schema(value_type = Option<bool>)]
    #[param(value_type = Option<bool>)]
    pub strict: bool,
}

/// The parameters of a release.
#[derive(IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub(super) struct ReleaseParams {
    /// Namespace of the lock: "public" or a private namespace of the account. Any other gets 403.
    #[schema(example = "public")]
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// Name of one holder within the account, such as a CI job: up to 128 characters and 256 bytes.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub owner: Option<Owner>,
    /// Apply only to the grant with this fencing token.
    #[schema(rename = "fencing_token", value_type = Option<u64>)]
    #[param(rename = "fencing_token", value_type = Option<u64>)]
    pub fence: Option<FencingToken>,
    /// Respond with status 423 instead of 200 when `response` is `false`.
    #[schema(value_type = Option<bool>)]
    #[param(value_type = Option<bool>)]
    pub strict: bool,
}

/// The parameters of a break.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct BreakParams {
    /// Namespace of the lock: "public" or a private namespace of the account. Any other gets 403.
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// Apply only to the grant with this fencing token.
    #[param(rename = "fencing_token", value_type = Option<u64>)]
    pub fence: Option<FencingToken>,
}

/// The parameters of an inspection of one lock.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct InspectParams {
    /// Namespace of the lock: "public" or a private namespace of the account. Any other gets 403.
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// Owner whose position in the queue to return.
    #[param(value_type = Option<String>)]
    pub owner: Option<Owner>,
}

/// The parameters of the Terraform routes, in the query string: the body is a `LockInfo`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TerraformParams {
    /// Namespace of the lock: "public" or a private namespace of the account. Any other gets 403.
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// Time until the grant expires unless renewed: seconds, or a number with `ms`, `s`, `m`, `h` or `d`. A lease
    /// outside the plan's range gets 403.
    #[param(value_type = Option<String>, example = "30s")]
    pub lease: Option<Lease>,
    /// Longest time to wait in the queue.
    #[param(value_type = Option<String>, example = "30s")]
    pub wait: Duration,
}

/// The parameters of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only locks in this namespace.
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// Only locks whose names begin with this prefix, at most 200 bytes.
    #[param(value_type = Option<String>)]
    pub prefix: String,
    /// Maximum number of locks on a page.
    #[param(value_type = Option<u32>)]
    pub limit: usize,
    /// `next_cursor` of the previous page.
    #[param(value_type = Option<String>)]
    pub cursor: Option<Cursor>,
}

impl ListParams {
    /// The default number of locks on a page.
    const LIMIT: usize = 100;
}

impl AcquireParams {
    pub(super) async fn read(parts: &Parts, body: impl HttpBody, context: &RequestContext) -> Result<Self, Problem> {
        let mut params = Params::read(parts, body, context).await?;
        let read = Self {
            namespace: params.text("namespace")?,
            owner: params.take("owner", Owner::parse)?,
            lease: params.take("lease", lease)?,
            wait: params.take("wait", duration)?.unwrap_or_default(),
            note: params.take("note", Note::parse)?.unwrap_or_default(),
            strict: params.take("strict", flag)?.unwrap_or_default(),
        };
        params.finish(&["owner", "lease", "wait", "note", "namespace", "strict"])?;
        Ok(read)
    }
}

impl HeartbeatParams {
    pub(super) async fn read(parts: &Parts, body: impl HttpBody, context: &RequestContext) -> Result<Self, Problem> {
        let mut params = Params::read(parts, body, context).await?;
        let read = Self {
            namespace: params.text("namespace")?,
            owner: params.take("owner", Owner::parse)?,
            lease: params.take("lease", lease)?,
            fence: params.take("fencing_token", |text| text.parse())?,
            strict: params.take("strict", flag)?.unwrap_or_default(),
        };
        params.finish(&["owner", "lease", "namespace", "fencing_token", "strict"])?;
        Ok(read)
    }
}

impl ReleaseParams {
    pub(super) async fn read(parts: &Parts, body: impl HttpBody, context: &RequestContext) -> Result<Self, Problem> {
        let mut params = Params::read(parts, body, context).await?;
        let read = Self {
            namespace: params.text("namespace")?,
            owner: params.take("owner", Owner::parse)?,
            fence: params.take("fencing_token", |text| text.parse())?,
            strict: params.take("strict", flag)?.unwrap_or_default(),
        };
        params.finish(&["owner", "namespace", "fencing_token", "strict"])?;
        Ok(read)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for BreakParams {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let mut params = Params::in_query(&parts.uri)?;
        let read =
            Self { namespace: params.text("namespace")?, fence: params.take("fencing_token", |text| text.parse())? };
        params.finish(&["namespace", "fencing_token"])?;
        Ok(read)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for InspectParams {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let mut params = Params::in_query(&parts.uri)?;
        let read = Self { namespace: params.text("namespace")?, owner: params.take("owner", Owner::parse)? };
        params.finish(&["namespace", "owner"])?;
        Ok(read)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for TerraformParams {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let mut params = Params::in_query(&parts.uri)?;
        let read = Self {
            namespace: params.text("namespace")?,
            lease: params.take("lease", lease)?,
            wait: params.take("wait", duration)?.unwrap_or_default(),
        };
        params.finish(&["namespace", "lease", "wait"])?;
        Ok(read)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ListParams {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let mut params = Params::in_query(&parts.uri)?;
        let read = Self {
            namespace: params.text("namespace")?,
            prefix: params.take("prefix", prefix)?.unwrap_or_default(),
            limit: params.take("limit", limit)?.unwrap_or(Self::LIMIT),
            cursor: params.take("cursor", cursor::parse)?,
        };
        params.finish(&["namespace", "prefix", "limit", "cursor"])?;
        Ok(read)
    }
}

fn lease(text: String) -> Result<Lease, String> {
    parse_duration_ms(&text).map(Lease::from_ms).map_err(|error| error.to_string())
}

fn duration(text: String) -> Result<Duration, String> {
    parse_duration_ms(&text).map(Duration::from_millis).map_err(|error| error.to_string())
}

fn prefix(text: String) -> Result<String, String> {
    match text.len() {
        0..=LockName::BYTES_MAX => Ok(text),
        bytes => Err(format!("it has {bytes} bytes; the limit is {}", LockName::BYTES_MAX)),
    }
}

fn limit(text: String) -> Result<usize, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let limit = text.parse().ok().filter(|limit| is_number && (1..=Locks::PAGE_MAX).contains(limit));
    limit.ok_or_else(|| format!("it is not an integer from 1 to {}", Locks::PAGE_MAX))
}

fn flag(text: String) -> Result<bool, &'static str> {
    match text.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("it is neither true nor false"),
    }
}
