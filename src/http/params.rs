//! What the parameters of each request are, and how they are read. Which values are accepted the
//! description takes from `openapi/exact.rs`.

mod reader;

use std::time::Duration;

use axum::{extract::FromRequestParts, http::request::Parts};
use utoipa::{IntoParams, ToSchema};

pub use self::reader::Body;
pub(super) use self::reader::{BODY_BYTES_MAX, malformed, malformed_body, refuse_body};
use self::reader::{HttpBody, Params};
use super::{cursor, problem::Problem, request_context::Frame};
use crate::{
    lock::{FencingToken, Lease, LockName, Note, Owner, parse_duration_ms},
    locks::{Cursor, Locks},
};

/// What an acquire may be told.
#[derive(IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub(super) struct AcquireParams {
    /// Where the name lives: "public", or a private namespace of the account. Any other is answered 403.
    #[schema(example = "public")]
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// One holder within the account, such as a CI job: up to 128 characters in at most 256 bytes.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub owner: Option<Owner>,
    /// How long the lock is held unless renewed: seconds, or a number with `ms`, `s`, `m`, `h` or `d`. Outside of the plan's
    /// range it is answered 403.
    #[schema(value_type = Option<String>, example = "90s")]
    #[param(value_type = Option<String>, example = "90s")]
    pub lease: Option<Lease>,
    /// For how long to wait in the queue.
    #[schema(value_type = Option<String>, example = "30s")]
    #[param(value_type = Option<String>, example = "30s")]
    pub wait: Duration,
    /// Text shown to callers of the same account while the lock is held, at most 500 bytes.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub note: Note,
    /// Answer a "no" with status 423.
    #[schema(value_type = Option<bool>)]
    #[param(value_type = Option<bool>)]
    pub strict: bool,
}

/// What a heartbeat may be told.
#[derive(IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub(super) struct HeartbeatParams {
    /// Where the name lives: "public", or a private namespace of the account. Any other is answered 403.
    #[schema(example = "public")]
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// One holder within the account, such as a CI job: up to 128 characters in at most 256 bytes.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub owner: Option<Owner>,
    /// How long the lock is held unless renewed: seconds, or a number with `ms`, `s`, `m`, `h` or `d`. Outside of the plan's
    /// range it is answered 403.
    #[schema(value_type = Option<String>, example = "30s")]
    #[param(value_type = Option<String>, example = "30s")]
    pub lease: Option<Lease>,
    /// Do it only if this is the current grant's.
    #[schema(rename = "fencing_token", value_type = Option<u64>)]
    #[param(rename = "fencing_token", value_type = Option<u64>)]
    pub fence: Option<FencingToken>,
    /// Answer a "no" with status 423.
    #[schema(value_type = Option<bool>)]
    #[param(value_type = Option<bool>)]
    pub strict: bool,
}

/// What a release may be told.
#[derive(IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub(super) struct ReleaseParams {
    /// Where the name lives: "public", or a private namespace of the account. Any other is answered 403.
    #[schema(example = "public")]
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// One holder within the account, such as a CI job: up to 128 characters in at most 256 bytes.
    #[schema(value_type = Option<String>)]
    #[param(value_type = Option<String>)]
    pub owner: Option<Owner>,
    /// Do it only if this is the current grant's.
    #[schema(rename = "fencing_token", value_type = Option<u64>)]
    #[param(rename = "fencing_token", value_type = Option<u64>)]
    pub fence: Option<FencingToken>,
    /// Answer a "no" with status 423.
    #[schema(value_type = Option<bool>)]
    #[param(value_type = Option<bool>)]
    pub strict: bool,
}

/// What a break may be told.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct BreakParams {
    /// Where the name lives: "public", or a private namespace of the account. Any other is answered 403.
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// Do it only if this is the current grant's.
    #[param(rename = "fencing_token", value_type = Option<u64>)]
    pub fence: Option<FencingToken>,
}

/// What a look at one lock may be told.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct InspectParams {
    /// Where the name lives: "public", or a private namespace of the account. Any other is answered 403.
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// Whose position in the queue to return.
    #[param(value_type = Option<String>)]
    pub owner: Option<Owner>,
}

/// What Terraform's addresses may be told, whose bodies are not for parameters.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LockParams {
    /// Where the name lives: "public", or a private namespace of the account. Any other is answered 403.
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// How long the lock is held unless renewed: seconds, or a number with `ms`, `s`, `m`, `h` or `d`. Outside of the plan's
    /// range it is answered 403.
    #[param(value_type = Option<String>, example = "30s")]
    pub lease: Option<Lease>,
    /// For how long to wait in the queue.
    #[param(value_type = Option<String>, example = "30s")]
    pub wait: Duration,
}

/// What a list may be told.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only locks in this namespace.
    #[param(example = "public")]
    pub namespace: Option<String>,
    /// Only locks whose names begin like this, at most 200 bytes.
    #[param(value_type = Option<String>)]
    pub prefix: String,
    /// How many locks at most.
    #[param(value_type = Option<u32>)]
    pub limit: usize,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
    pub cursor: Option<Cursor>,
}

impl ListParams {
    /// How long a page is unless the request says.
    const LIMIT: usize = 100;
}

impl AcquireParams {
    pub(super) async fn read(parts: &Parts, body: impl HttpBody, frame: &Frame) -> Result<Self, Problem> {
        let mut params = Params::read(parts, body, frame).await?;
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
    pub(super) async fn read(parts: &Parts, body: impl HttpBody, frame: &Frame) -> Result<Self, Problem> {
        let mut params = Params::read(parts, body, frame).await?;
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
    pub(super) async fn read(parts: &Parts, body: impl HttpBody, frame: &Frame) -> Result<Self, Problem> {
        let mut params = Params::read(parts, body, frame).await?;
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

impl<S: Send + Sync> FromRequestParts<S> for LockParams {
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
        bytes => Err(format!("it has {bytes} bytes, and names have {} at most", LockName::BYTES_MAX)),
    }
}

fn limit(text: String) -> Result<usize, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let limit = text.parse().ok().filter(|limit| is_number && (1..=Locks::PAGE_MAX).contains(limit));
    limit.ok_or_else(|| format!("it is 1 to {}", Locks::PAGE_MAX))
}

fn flag(text: String) -> Result<bool, &'static str> {
    match text.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("it is neither true nor false"),
    }
}
