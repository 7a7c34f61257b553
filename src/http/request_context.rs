use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use axum::{
    body::{Body, HttpBody as _},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use super::{
    count::{MetricRoute, record_request},
    load_shed::InFlightPermit,
    params::refuse_body,
    problem::Problem,
    request_id::RequestId,
    strict::refuse_ambiguous,
    trace::Trace,
};
use crate::{
    app::App,
    lock::{Rate, RateStatus},
};

/// The state of one request that handlers and the tracker share.
pub(super) struct RequestContext {
    /// The start of the request.
    pub(super) start: Instant,
    rate_status: Mutex<Option<RateStatus>>,
    wait_ms: AtomicU64,
    pub(super) permit: InFlightPermit,
}

impl RequestContext {
    pub(super) fn new(start: Instant, permit: InFlightPermit) -> Self {
        Self { start, rate_status: Mutex::default(), wait_ms: AtomicU64::new(0), permit }
    }

    /// Sets the rate status for the headers of the response.
    pub(super) fn set_rate_status(&self, rate_status: RateStatus) {
        *self.rate_status.lock().unwrap_or_else(PoisonError::into_inner) = Some(rate_status);
    }

    /// Extends the deadline of the request by `wait`, and releases the in-flight permit for good: a
    /// waiting request causes no load.
    pub(super) fn extend_deadline(&self, wait: Duration) {
        self.wait_ms.store(wait.as_millis() as u64, Ordering::Relaxed);
        self.permit.release();
    }

    /// Awaits a slow future without the in-flight permit.
    ///
    /// # Errors
    /// The future's error, or 503 when the server is overloaded afterwards.
    pub(super) async fn without_permit<T>(
        &self,
        waiting: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        self.permit.release();
        let waited = waiting.await?;
        self.permit.acquire()?;
        Ok(waited)
    }

    fn extension(&self) -> Duration {
        Duration::from_millis(self.wait_ms.load(Ordering::Relaxed))
    }

    fn rate_status(&self) -> Option<RateStatus> {
        *self.rate_status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The context of a request outside the server, in tests and fuzzers.
impl Default for RequestContext {
    fn default() -> Self {
        Self::new(Instant::now(), InFlightPermit::default())
    }
}

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The middleware of all requests that the router serves.
pub(super) async fn with_request_context(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("-", MatchedPath::as_str);
    let tracker = RequestTracker::begin(request.method(), route, request.headers());
    let context =
        Arc::new(RequestContext::new(tracker.start, InFlightPermit::for_request(&app, route, request.method())));
    request.extensions_mut().insert(context.clone());
    let response = tracker.run(&app, &context, pin!(serve(request, next, &context))).await;
    tracker.finish(&app, &context, response, MetricRoute::Other { route })
}

async fn serve(request: Request, next: Next, context: &RequestContext) -> Response {
    if let Err(problem) = refuse_ambiguous(request.version(), request.headers()) {
        return problem.into_response();
    }
    // Terraform may unlock with DELETE and a body.
    let is_terraform = request.uri().path().starts_with("/v1/terraform/");
    let has_no_body = matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE) && !is_terraform;
    if !has_no_body || request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match refuse_body(body, context).await {
        Ok(()) => next.run(Request::from_parts(parts, Body::empty())).await,
        Err(problem) => problem.into_response(),
    }
}

/// Tracks one request: its timeout, the common headers of its response, its trace, its metrics
/// and its log line. The log line has the route instead of the path, which contains lock names.
pub(super) struct RequestTracker<'route> {
    pub(super) start: Instant,
    id: RequestId,
    method: &'static str,
    route: &'route str,
    trace: Trace,
}

impl<'route> RequestTracker<'route> {
    /// The number of headers added to most responses.
    const HEADERS: usize = 5;

    pub(super) fn begin(method: &Method, route: &'route str, headers: &HeaderMap) -> Self {
        let method = method_name(method);
        let trace = Trace::begin(method, route, headers);
        Self { start: Instant::now(), id: RequestId::new(), method, route, trace }
    }

    /// Runs the request until its deadline.
    ///
    /// Takes a pinned reference: moving a future into another one doubles its size.
    pub(super) async fn run(
        &self,
        app: &App,
        context: &RequestContext,
        response: Pin<&mut impl Future<Output = Response>>,
    ) -> Response {
        if let Err(problem) = context.permit.acquire() {
            return problem.into_response();
        }
        let mut response = response.instrument(self.trace.span.clone());
        let mut timer = pin!(sleep_until(self.start + app.request_timeout));
        poll_fn(|cx| {
            if let Poll::Ready(response) = Pin::new(&mut response).poll(cx) {
                return Poll::Ready(response);
            }
            while timer.as_mut().poll(cx).is_ready() {
                // The handler extends the deadline only after it has parsed the request.
                let deadline = self.start + app.request_timeout + context.extension();
                if deadline <= timer.deadline() {
                    return Poll::Ready(
                        Problem::unavailable("the server did not complete the request in time; retry").into_response(),
                    );
                }
                timer.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }

    /// Adds the common headers to the response, and records the request in log, metrics and trace.
    pub(super) fn finish(
        self,
        app: &App,
        context: &RequestContext,
        mut response: Response,
        metric_route: MetricRoute<'_>,
    ) -> Response {
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            // It is the length of the empty body that `Problem::into_response` sets.
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.body_mut() = problem.body(self.id.as_str());
        }
        let headers = response.headers_mut();
        headers.reserve(Self::HEADERS);
        // Assets of pages set their own Cache-Control.
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        if let Some(rate_status) = context.rate_status() {
            let [policy, state] = rate_fields(rate_status);
            headers.insert(RATE_LIMIT_POLICY.clone(), policy);
            headers.insert(RATE_LIMIT.clone(), state);
        }
        headers.insert(REQUEST_ID.clone(), self.id.header());
        let (status, duration) = (response.status(), self.start.elapsed());
        if app.records_metrics {
            record_request(self.method, metric_route, status, duration);
        }
        tracing::info!(
            method = self.method,
            route = self.route,
            status = status.as_u16(),
            duration_us = duration.as_micros() as u64,
            request_id = self.id.as_str(),
            trace_id = self.trace.id(),
            "request",
        );
        self.trace.finish(status, response.headers_mut());
        response
    }
}

/// Maps unknown methods to one name: clients could otherwise create any number of metric labels.
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

/// The headers `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10): `q` requests in
/// `w` seconds are allowed, `r` remain, and the whole quota is refilled in `t` seconds.
fn rate_fields(rate_status: RateStatus) -> [HeaderValue; 2] {
    [
        policy_field(rate_status.rate),
        rate_field([";r=", ";t="], [rate_status.remaining.into(), seconds(rate_status.reset)]),
    ]
}

/// Formats the policy, which is the same for all requests of a plan. Each thread caches the last one:
/// formatting takes 400 instructions.
fn policy_field(rate: Rate) -> HeaderValue {
    thread_local!(static LAST: RefCell<Option<(Rate, HeaderValue)>> = const { RefCell::new(None) });
    LAST.with_borrow_mut(|last| match last {
        Some((cached, field)) if *cached == rate => field.clone(),
        _ => {
            let field = rate_field([";q=", ";w="], [rate.burst.into(), seconds(rate.refill())]);
            last.insert((rate, field)).1.clone()
        }
    })
}

fn rate_field(letters: [&str; 2], numbers: [u64; 2]) -> HeaderValue {
    let mut text = SmallVec::<[u8; 64]>::new();
    text.extend_from_slice(b"\"account\"");
    for (letter, number) in letters.into_iter().zip(numbers) {
        text.extend_from_slice(letter.as_bytes());
        text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn seconds(time: Duration) -> u64 {
    (time.as_micros() as u64).div_ceil(1_000_000)
}
