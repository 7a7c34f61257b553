use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use metrics::{counter, histogram};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;
use uuid::Uuid;

use super::{problem::Problem, shed::Place, trace::Trace};
use crate::{app::App, lock::RateStanding};

/// What is learnt of a request on its way, for the headers of its answer.
#[derive(Default)]
pub(super) struct Frame {
    standing: Mutex<Option<RateStanding>>,
    wait_ms: AtomicU64,
    pub(super) place: Place,
}

impl Frame {
    /// Takes note of how the caller's token stands with its rate.
    pub(super) fn note_standing(&self, standing: RateStanding) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
    }

    /// Gives the request so much more time than others have, to wait in. While it
    /// waits it is not worked on.
    pub(super) fn may_wait(&self, wait: Duration) {
        self.wait_ms.store(wait.as_millis() as u64, Ordering::Relaxed);
        self.place.leave();
    }

    fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms.load(Ordering::Relaxed))
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
    let method = method_name(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("-", MatchedPath::as_str);
    let trace = Trace::begin(method, route, request.headers());
    let frame = Arc::new(Frame { place: Place::of(&app, &request), ..Frame::default() });
    request.extensions_mut().insert(frame.clone());

    let answering = async {
        match frame.place.take() {
            Ok(()) => next.run(request).await,
            Err(problem) => problem.into_response(),
        }
    };
    let mut answering = pin!(answering.instrument(trace.span.clone()));
    let mut response = match timeout_at(started + app.request_timeout, answering.as_mut()).await {
        Ok(response) => response,
        // That it may wait is known only when it has been read.
        Err(_) => match timeout_at(started + app.request_timeout + frame.wait(), answering).await {
            Ok(response) => response,
            Err(_) => Problem::unavailable("the request took too long").into_response(),
        },
    };

    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        // Made for an empty body.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = problem.body(&request_id);
    }
    let headers = response.headers_mut();
    // Files that pages load say themselves for how long they are good.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
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
    if app.measures {
        count(method, route, response.status(), started.elapsed());
    }
    tracing::info!(
        method,
        route,
        status = response.status().as_u16(),
        duration_us = started.elapsed().as_micros() as u64,
        request_id,
        trace_id = trace.id(),
        "request",
    );
    trace.end(response.status(), response.headers_mut());
    response
}

/// Methods are told apart as far as routes have them: anybody can make up more.
fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "DELETE" => "DELETE",
        "LOCK" => "LOCK",
        "UNLOCK" => "UNLOCK",
        _ => "other",
    }
}

fn count(method: &'static str, route: &str, status: StatusCode, duration: Duration) {
    let route = route.to_owned();
    counter!("lockable_http_requests_total", "method" => method, "route" => route.clone(), "status" => status.as_str().to_owned())
        .increment(1);
    histogram!("lockable_http_request_duration_seconds", "route" => route).record(duration);
}

/// The fields of draft-ietf-httpapi-ratelimit-headers-10: `q` requests in `w`
/// seconds are allowed, `r` remain, and in `t` seconds all will be there again.
fn rate_fields(standing: RateStanding) -> (String, String) {
    let window = (standing.rate.refill().as_micros() as u64).div_ceil(1_000_000);
    let reset = (standing.reset.as_micros() as u64).div_ceil(1_000_000);
    (format!("\"token\";q={};w={window}", standing.rate.burst), format!("\"token\";r={};t={reset}", standing.remaining))
}
