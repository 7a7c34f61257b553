use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{Method, Uri, header, request::Parts},
};
use serde_json::Value;

use super::{
    cursor,
    decode::decode_pairs,
    json_object::members,
    problem::{Kind, Problem},
};
use crate::{
    lock::{Fence, Lease, LockName, Note, Owner, parse_duration_ms},
    locks::{Cursor, Locks},
};

/// The longest body of a request, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 16 * 1024;

/// What an acquire may be told.
pub(super) struct AcquireParams {
    pub namespace: Option<String>,
    pub owner: Option<Owner>,
    pub lease: Option<Lease>,
    pub wait: Duration,
    pub note: Note,
    pub strict: bool,
}

/// What a heartbeat may be told.
pub(super) struct HeartbeatParams {
    pub namespace: Option<String>,
    pub owner: Option<Owner>,
    pub lease: Option<Lease>,
    pub fence: Option<Fence>,
    pub strict: bool,
}

/// What a release may be told.
pub(super) struct ReleaseParams {
    pub namespace: Option<String>,
    pub owner: Option<Owner>,
    pub fence: Option<Fence>,
    pub strict: bool,
}

impl<S: Send + Sync> FromRequest<S> for AcquireParams {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let mut params = Params::read(request, state).await?;
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

impl<S: Send + Sync> FromRequest<S> for HeartbeatParams {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let mut params = Params::read(request, state).await?;
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

impl<S: Send + Sync> FromRequest<S> for ReleaseParams {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let mut params = Params::read(request, state).await?;
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

/// What a request about one lock may be told that changes nothing of it, or
/// breaks it.
pub(super) struct LookParams {
    pub namespace: Option<String>,
}

/// What Terraform's addresses may be told, whose bodies are not for parameters.
pub(super) struct LockParams {
    pub namespace: Option<String>,
    pub lease: Option<Lease>,
    pub wait: Duration,
}

/// What a list may be told.
pub(super) struct ListParams {
    pub namespace: Option<String>,
    pub prefix: String,
    pub limit: usize,
    pub cursor: Option<Cursor>,
}

impl ListParams {
    /// How long a page is unless the request says.
    const LIMIT: usize = 100;
}

impl<S: Send + Sync> FromRequestParts<S> for LookParams {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let mut params = Params::in_query(&parts.uri)?;
        let read = Self { namespace: params.text("namespace")? };
        params.finish(&["namespace"])?;
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

/// The parameters of a request by name, each at most once, whether they came in
/// the query string or in the body.
struct Params(Vec<(String, String)>);

impl Params {
    async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Self, Problem> {
        let Self(mut pairs) = Self::in_query(request.uri())?;
        if request.method() == Method::POST {
            pairs.extend(body_pairs(request, state).await?);
        }
        Self::each_once(pairs)
    }

    fn in_query(uri: &Uri) -> Result<Self, Problem> {
        let pairs = decode_pairs(uri.query().unwrap_or_default())
            .map_err(|_| malformed("the query string is not percent-encoded UTF-8"))?;
        Self::each_once(pairs)
    }

    fn each_once(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        for (at, (name, _)) in pairs.iter().enumerate() {
            if pairs.iter().skip(at + 1).any(|(other, _)| other == name) {
                return Err(malformed(format!("the parameter {name:?} is given twice")));
            }
        }
        Ok(Self(pairs))
    }

    /// Takes a parameter out and parses it.
    fn take<T, E: ToString>(
        &mut self,
        name: &str,
        parse: impl FnOnce(String) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        let Some(at) = self.0.iter().position(|(other, _)| other == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(at);
        match parse(value) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(error) => Err(malformed(format!("the parameter \"{name}\" is malformed: {}", error.to_string()))),
        }
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        self.take(name, Ok::<_, String>)
    }

    /// Whatever was not taken is unknown here.
    fn finish(self, known: &[&str]) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let known = known.join(", ");
                Err(malformed(format!("the parameter {name:?} is unknown here; there are {known}")))
            }
        }
    }
}

/// The body of a request as text.
pub(super) struct Body(pub String);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
                Problem::new(Kind::BodyTooLarge, format!("the body is longer than {BODY_BYTES_MAX} bytes"))
            } else {
                malformed_body("the body ended before its end")
            }
        })?;
        let text = String::from_utf8(body.into()).map_err(|_| malformed_body("the body is not UTF-8"))?;
        Ok(Self(text))
    }
}

async fn body_pairs<S: Send + Sync>(request: Request, state: &S) -> Result<Vec<(String, String)>, Problem> {
    let media_type = request.headers().get(header::CONTENT_TYPE).map(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        essence.trim().to_ascii_lowercase()
    });
    let Body(text) = Body::from_request(request, state).await?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    match media_type.as_deref() {
        Some("application/x-www-form-urlencoded") => {
            decode_pairs(&text).map_err(|_| malformed_body("the form is not percent-encoded UTF-8"))
        }
        Some("application/json") => json_pairs(&text),
        _ => Err(Problem::new(
            Kind::UnsupportedMediaType,
            "the body is neither application/x-www-form-urlencoded nor application/json",
        )),
    }
}

/// Members of a JSON object become parameters as they would be written in a
/// query string; `null` is the same as leaving one out.
fn json_pairs(text: &str) -> Result<Vec<(String, String)>, Problem> {
    let members = members(text).map_err(|error| malformed_body(format!("the body is not a JSON object: {error}")))?;
    let pair = |(name, value)| match value {
        Value::Null => None,
        Value::String(text) => Some(Ok((name, text))),
        Value::Bool(flag) => Some(Ok((name, flag.to_string()))),
        Value::Number(number) => Some(Ok((name, number.to_string()))),
        Value::Array(_) | Value::Object(_) => {
            Some(Err(malformed(format!("the parameter {name:?} is malformed: it is not a text, number or boolean"))))
        }
    };
    members.into_iter().filter_map(pair).collect()
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
    let limit = text.parse().ok().filter(|limit| (1..=Locks::PAGE_MAX).contains(limit));
    limit.ok_or_else(|| format!("it is 1 to {}", Locks::PAGE_MAX))
}

fn flag(text: String) -> Result<bool, &'static str> {
    match text.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("it is neither true nor false"),
    }
}

pub(super) fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::MalformedParameter, detail)
}

pub(super) fn malformed_body(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::MalformedBody, detail)
}
