use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time;
use uuid::Uuid;

use super::problem::Problem;
use crate::{app::App, lock::RateStanding};

/// What is learnt of a request on its way, for the headers of its answer.
#[derive(Default)]
pub(super) struct Frame {
    standing: Mutex<Option<RateStanding>>,
}

impl Frame {
    /// Takes note of how the caller's token stands with its rate.
    pub(super) fn note_standing(&self, standing: RateStanding) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
    }

    fn standing(&self) -> Option<RateStanding> {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What surrounds every request: a time limit, the headers that every answer
/// carries, and one line in the log. No path is logged as it came: it holds
/// the names of locks.
pub(super) async fn frame(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let request_id = Uuid::new_v4().simple().to_string();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let frame = Arc::new(Frame::default());
    request.extensions_mut().insert(frame.clone());

    let mut response = match time::timeout(app.request_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("the request took too long").into_response(),
    };

    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(standing) = frame.standing() {
        let (policy, state) = rate_fields(standing);
        headers.extend(
            [(RATE_LIMIT_POLICY.clone(), policy), (RATE_LIMIT.clone(), state)]
                .into_iter()
                .filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?))),
        );
    }
    if let Ok(value) = HeaderValue::try_from(&request_id) {
        headers.insert(REQUEST_ID.clone(), value);
    }
    tracing::info!(
        %method,
        route = route.as_ref().map_or("-", MatchedPath::as_str),
        status = response.status().as_u16(),
        duration_us = started.elapsed().as_micros() as u64,
        request_id,
        "request",
    );
    response
}

/// The fields of draft-ietf-httpapi-ratelimit-headers-10: `q` requests in `w`
/// seconds are allowed, `r` remain, and in `t` seconds all will be there again.
fn rate_fields(standing: RateStanding) -> (String, String) {
    let window = standing.rate.refill().as_secs_f64().ceil();
    let reset = standing.reset.as_secs_f64().ceil();
    (format!("\"token\";q={};w={window}", standing.rate.burst), format!("\"token\";r={};t={reset}", standing.remaining))
}
