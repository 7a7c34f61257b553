use std::{error::Error, pin::pin, sync::Arc, time::Duration};

use axum::{
    body::HttpBody as AnyBody,
    extract::{FromRequest, Request},
    http::{HeaderMap, Method, Uri, header, request::Parts},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use tokio::time::timeout;

use crate::http::{
    decode::decode_pairs,
    json_object::object_members,
    problem::{Problem, ProblemKind},
    request_context::RequestContext,
};

/// The maximum length of a request body, in bytes.
pub(in crate::http) const BODY_BYTES_MAX: usize = 16 * 1024;

/// The time limit for receiving a body, which fits into a few packets.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// A request body of any implementation.
pub(in crate::http) trait HttpBody: AnyBody<Error: Into<Box<dyn Error + Send + Sync>>> + Send {}

impl<B: AnyBody<Error: Into<Box<dyn Error + Send + Sync>>> + Send> HttpBody for B {}

/// The parameters of a request by name, from the query string and the body. No name occurs twice.
pub(in crate::http) struct Params(Vec<(String, String)>);

impl Params {
    /// The maximum number of parameters of a request, larger than that of any route.
    const COUNT_MAX: usize = 16;

    pub(super) async fn read(parts: &Parts, body: impl HttpBody, context: &RequestContext) -> Result<Self, Problem> {
        let Self(mut pairs) = Self::in_query(&parts.uri)?;
        if parts.method == Method::POST {
            // Boxed: few requests have a body, and its future would enlarge the future of every request.
            pairs.extend(Box::pin(body_pairs(&parts.headers, body, context)).await?);
        } else if !body.is_end_stream() {
            Box::pin(refuse_body(body, context)).await?;
        }
        Self::each_once(pairs)
    }

    pub(super) fn in_query(uri: &Uri) -> Result<Self, Problem> {
        let pairs = decode_pairs(uri.query().unwrap_or_default())
            .map_err(|_| malformed("the query string is not percent-encoded UTF-8; encode it"))?;
        Self::each_once(pairs)
    }

    fn each_once(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        if pairs.len() > Self::COUNT_MAX {
            return Err(malformed(format!("the request has more than {} parameters", Self::COUNT_MAX)));
        }
        for (at, (name, _)) in pairs.iter().enumerate() {
            if pairs.iter().skip(at + 1).any(|(other, _)| other == name) {
                return Err(malformed(format!("the parameter {name:?} occurs twice; send it once")));
            }
        }
        Ok(Self(pairs))
    }

    /// Removes a parameter and parses it.
    pub(super) fn take<T, E: ToString>(
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

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        self.take(name, Ok::<_, String>)
    }

    /// Refuses any parameter that was not taken.
    pub(super) fn finish(self, known: &[&str]) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let known = known.join(", ");
                Err(malformed(format!("the parameter {name:?} is unknown; this route has {known}")))
            }
        }
    }
}

/// The body of a request as text.
pub struct Body(pub String);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        let context = request.extensions().get::<Arc<RequestContext>>().cloned().unwrap_or_default();
        text(request.into_body(), &context).await.map(Self)
    }
}

/// Reads a body.
async fn text(body: impl HttpBody, context: &RequestContext) -> Result<String, Problem> {
    // A request that waits for data from its client does not count as in flight.
    context.permit.release();
    let read = timeout(BODY_TIMEOUT, Limited::new(pin!(body), BODY_BYTES_MAX).collect()).await;
    let read = read.map_err(|_| {
        Problem::new(
            ProblemKind::BodyTooSlow,
            format!("the body was not received within {} s; retry", BODY_TIMEOUT.as_secs()),
        )
    })?;
    context.permit.acquire()?;
    let body = read.map_err(|error| match error.is::<LengthLimitError>() {
        true => Problem::new(
            ProblemKind::BodyTooLarge,
            format!("the body is longer than {BODY_BYTES_MAX} bytes; send a shorter one"),
        ),
        false => malformed_body("the connection ended within the body"),
    })?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| malformed_body("the body is not UTF-8"))
}

/// Refuses a body that the server would ignore, such as that of `curl -X GET -d fencing_token=1`. An
/// empty chunked body is allowed.
pub(in crate::http) async fn refuse_body(body: impl HttpBody, context: &RequestContext) -> Result<(), Problem> {
    match text(body, context).await?.is_empty() {
        true => Ok(()),
        false => Err(malformed_body(
            "this method allows no body; send the parameters in the query string, or use POST where the route allows it",
        )),
    }
}

async fn body_pairs(
    headers: &HeaderMap,
    body: impl HttpBody,
    context: &RequestContext,
) -> Result<Vec<(String, String)>, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).map(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        essence.trim().to_ascii_lowercase()
    });
    let text = text(body, context).await?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    match media_type.as_deref() {
        Some("application/x-www-form-urlencoded") => {
            decode_pairs(&text).map_err(|_| malformed_body("the form is not percent-encoded UTF-8"))
        }
        Some("application/json") => json_pairs(&text),
        _ => Err(Problem::new(
            ProblemKind::UnsupportedMediaType,
            "the media type of the body is neither application/x-www-form-urlencoded nor application/json; send one of these",
        )),
    }
}

/// Converts the members of a JSON object to the text that they would have in a query string, and omits
/// those that are `null`.
fn json_pairs(text: &str) -> Result<Vec<(String, String)>, Problem> {
    let members =
        object_members(text).map_err(|error| malformed_body(format!("the body is not a JSON object: {error}")))?;
    let pair = |(name, value)| match value {
        Value::Null => None,
        Value::String(text) => Some(Ok((name, text))),
        Value::Bool(flag) => Some(Ok((name, flag.to_string()))),
        // Other numbers lose digits, so that two different owners could become equal.
        Value::Number(number) if number.is_u64() || number.is_i64() => Some(Ok((name, number.to_string()))),
        Value::Number(_) => Some(Err(malformed(format!(
            "the parameter {name:?} is malformed: it is not an integer of at most 64 bits; send it as a string"
        )))),
        Value::Array(_) | Value::Object(_) => {
            Some(Err(malformed(format!("the parameter {name:?} is malformed: it is not a string, number or boolean"))))
        }
    };
    members.into_iter().filter_map(pair).collect()
}

pub(in crate::http) fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::MalformedParameter, detail)
}

pub(in crate::http) fn malformed_body(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::MalformedBody, detail)
}
