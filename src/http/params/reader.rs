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
    json_object::members,
    problem::{Kind, Problem},
    request_context::Frame,
};

/// The longest body of a request, in bytes.
pub(in crate::http) const BODY_BYTES_MAX: usize = 16 * 1024;

/// How long a body may take to come, which a packet or two can hold.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// A body as it comes in.
pub(in crate::http) trait HttpBody: AnyBody<Error: Into<Box<dyn Error + Send + Sync>>> + Send {}

impl<B: AnyBody<Error: Into<Box<dyn Error + Send + Sync>>> + Send> HttpBody for B {}

/// The parameters of a request by name, each at most once, whether they came in
/// the query string or in the body.
pub(in crate::http) struct Params(Vec<(String, String)>);

impl Params {
    /// How many parameters a request may have: more than any has use for.
    const COUNT_MAX: usize = 16;

    pub(super) async fn read(parts: &Parts, body: impl HttpBody, frame: &Frame) -> Result<Self, Problem> {
        let Self(mut pairs) = Self::in_query(&parts.uri)?;
        if parts.method == Method::POST {
            // Boxed: its room would be taken in every request, most of which
            // have no body.
            pairs.extend(Box::pin(body_pairs(&parts.headers, body, frame)).await?);
        } else if !body.is_end_stream() {
            Box::pin(refuse_body(body, frame)).await?;
        }
        Self::each_once(pairs)
    }

    pub(super) fn in_query(uri: &Uri) -> Result<Self, Problem> {
        let pairs = decode_pairs(uri.query().unwrap_or_default())
            .map_err(|_| malformed("the query string is not percent-encoded UTF-8"))?;
        Self::each_once(pairs)
    }

    fn each_once(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        if pairs.len() > Self::COUNT_MAX {
            return Err(malformed(format!("there are more than {} parameters", Self::COUNT_MAX)));
        }
        for (at, (name, _)) in pairs.iter().enumerate() {
            if pairs.iter().skip(at + 1).any(|(other, _)| other == name) {
                return Err(malformed(format!("the parameter {name:?} is given twice")));
            }
        }
        Ok(Self(pairs))
    }

    /// Takes a parameter out and parses it.
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

    /// Whatever was not taken is unknown here.
    pub(super) fn finish(self, known: &[&str]) -> Result<(), Problem> {
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
pub struct Body(pub String);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        let frame = request.extensions().get::<Arc<Frame>>().cloned().unwrap_or_default();
        text(request.into_body(), &frame).await.map(Self)
    }
}

/// Reads a body.
async fn text(body: impl HttpBody, frame: &Frame) -> Result<String, Problem> {
    // While the client takes its time there is nothing to work on.
    frame.place.leave();
    let read = timeout(BODY_TIMEOUT, Limited::new(pin!(body), BODY_BYTES_MAX).collect()).await;
    let read = read.map_err(|_| Problem::new(Kind::BodyTooSlow, "the body did not come in time"))?;
    frame.place.take()?;
    let body = read.map_err(|error| match error.is::<LengthLimitError>() {
        true => Problem::new(Kind::BodyTooLarge, format!("the body is longer than {BODY_BYTES_MAX} bytes")),
        false => malformed_body("the body ended before its end"),
    })?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| malformed_body("the body is not UTF-8"))
}

/// Refuses a request whose body would be ignored, though it may say something, as
/// `curl -X GET -d fencing_token=1` does. An empty body in chunks is none.
pub(in crate::http) async fn refuse_body(body: impl HttpBody, frame: &Frame) -> Result<(), Problem> {
    match text(body, frame).await?.is_empty() {
        true => Ok(()),
        false => Err(malformed_body(
            "a request with this method has no body; send parameters in the query string, or by POST where it is allowed",
        )),
    }
}

async fn body_pairs(headers: &HeaderMap, body: impl HttpBody, frame: &Frame) -> Result<Vec<(String, String)>, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).map(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        essence.trim().to_ascii_lowercase()
    });
    let text = text(body, frame).await?;
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
        // Beyond 64 bits, and with a fraction, digits would be lost: two owners could be one.
        Value::Number(number) if number.is_u64() || number.is_i64() => Some(Ok((name, number.to_string()))),
        Value::Number(_) => Some(Err(malformed(format!(
            "the parameter {name:?} is malformed: it is not a whole number of at most 64 bits; write it as a text"
        )))),
        Value::Array(_) | Value::Object(_) => {
            Some(Err(malformed(format!("the parameter {name:?} is malformed: it is not a text, number or boolean"))))
        }
    };
    members.into_iter().filter_map(pair).collect()
}

pub(in crate::http) fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::MalformedParameter, detail)
}

pub(in crate::http) fn malformed_body(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::MalformedBody, detail)
}
