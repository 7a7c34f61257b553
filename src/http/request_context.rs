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
    count::{Counted, count},
    load_shed::Place,
    params::refuse_body,
    problem::Problem,
    request_id::RequestId,
    strict::refuse_ambiguous,
    trace::Trace,
};
use crate::{
    app::App,
    lock::{Rate, RateStanding},
};

/// What is known of a request, and what is learnt on its way for the headers of its
/// answer.
pub(super) struct Frame {
    /// When the request began.
    pub(super) begun: Instant,
    standing: Mutex<Option<RateStanding>>,
    wait_ms: AtomicU64,
    pub(super) place: Place,
}

impl Frame {
    pub(super) fn new(begun: Instant, place: Place) -> Self {
        Self { begun, standing: Mutex::default(), wait_ms: AtomicU64::new(0), place }
    }

    /// Takes note of how the caller's account stands with its rate.
    pub(super) fn note_standing(&self, standing: RateStanding) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
    }

    /// Gives the request so much more time than others have, to wait in. While it
    /// waits it is not worked on.
    pub(super) fn may_wait(&self, wait: Duration) {
        self.wait_ms.store(wait.as_millis() as u64, Ordering::Relaxed);
        self.place.leave();
    }

    /// Waits for what may be long in coming. The request is not worked on meanwhile,
    /// and may find when it goes on that too many others are.
    pub(super) async fn aside<T>(&self, waiting: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        self.place.leave();
        let waited = waiting.await?;
        self.place.take()?;
        Ok(waited)
    }

    fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms.load(Ordering::Relaxed))
    }

    fn standing(&self) -> Option<RateStanding> {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That of a request which nothing surrounds, as in tests.
impl Default for Frame {
    fn default() -> Self {
        Self::new(Instant::now(), Place::default())
    }
}

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What surrounds a request that the router serves. The names of its routes are
/// found by the router.
pub(super) async fn frame(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("-", MatchedPath::as_str);
    let passage = Passage::begin(request.method(), route, request.headers());
    let frame = Arc::new(Frame::new(passage.started, Place::of(&app, route, request.method())));
    request.extensions_mut().insert(frame.clone());
    let response = passage.answer(&app, &frame, pin!(serve(request, next, &frame))).await;
    passage.end(&app, &frame, response, Counted::By { route })
}

async fn serve(request: Request, next: Next, frame: &Frame) -> Response {
    if let Err(problem) = refuse_ambiguous(request.version(), request.headers()) {
        return problem.into_response();
    }
    // Terraform unlocks by DELETE, too, and with a body.
    let is_terraform = request.uri().path().starts_with("/v1/terraform/");
    let has_no_body = matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE) && !is_terraform;
    if !has_no_body || request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match refuse_body(body, frame).await {
        Ok(()) => next.run(Request::from_parts(parts, Body::empty())).await,
        Err(problem) => problem.into_response(),
    }
}

/// What surrounds every request: a time limit, the headers that every answer
/// carries, and one line in the log. No path is logged as it came: it holds the
/// names of locks.
pub(super) struct Passage<'route> {
    pub(super) started: Instant,
    id: RequestId,
    method: &'static str,
    route: &'route str,
    trace: Trace,
}

impl<'route> Passage<'route> {
    /// How many headers are added to most answers.
    const HEADERS: usize = 5;

    pub(super) fn begin(method: &Method, route: &'route str, headers: &HeaderMap) -> Self {
        let method = method_name(method);
        let trace = Trace::begin(method, route, headers);
        Self { started: Instant::now(), id: RequestId::new(), method, route, trace }
    }

    /// Waits for the answer as long as the request may take.
    ///
    /// The future is not taken but pointed to: one that takes another has room for
    /// it twice, before and while it is polled.
    pub(super) async fn answer(
        &self,
        app: &App,
        frame: &Frame,
        answering: Pin<&mut impl Future<Output = Response>>,
    ) -> Response {
        if let Err(problem) = frame.place.take() {
            return problem.into_response();
        }
        let mut answering = answering.instrument(self.trace.span.clone());
        let mut time = pin!(sleep_until(self.started + app.request_timeout));
        poll_fn(|cx| {
            if let Poll::Ready(response) = Pin::new(&mut answering).poll(cx) {
                return Poll::Ready(response);
            }
            while time.as_mut().poll(cx).is_ready() {
                // That it may wait is known only when it has been read.
                let end = self.started + app.request_timeout + frame.wait();
                if end <= time.deadline() {
                    return Poll::Ready(Problem::unavailable("the request took too long").into_response());
                }
                time.as_mut().reset(end);
            }
            Poll::Pending
        })
        .await
    }

    /// Completes the answer, and says what became of the request.
    pub(super) fn end(self, app: &App, frame: &Frame, mut response: Response, counted: Counted<'_>) -> Response {
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            // Made for an empty body.
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.body_mut() = problem.body(self.id.as_str());
        }
        let headers = response.headers_mut();
        headers.reserve(Self::HEADERS);
        // Files that pages load say themselves for how long they are good.
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        if let Some(standing) = frame.standing() {
            let [policy, state] = rate_fields(standing);
            headers.insert(RATE_LIMIT_POLICY.clone(), policy);
            headers.insert(RATE_LIMIT.clone(), state);
        }
        headers.insert(REQUEST_ID.clone(), self.id.header());
        let (status, duration) = (response.status(), self.started.elapsed());
        if app.measures {
            count(self.method, counted, status, duration);
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
        self.trace.end(status, response.headers_mut());
        response
    }
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

/// The fields of draft-ietf-httpapi-ratelimit-headers-10, the policy and how it
/// stands: `q` requests in `w` seconds are allowed, `r` remain, and in `t` seconds
/// all will be there again.
fn rate_fields(standing: RateStanding) -> [HeaderValue; 2] {
    [policy_field(standing.rate), rate_field([";r=", ";t="], [standing.remaining.into(), seconds(standing.reset)])]
}

/// The policy is the same for all requests of a plan, so each thread keeps the last one:
/// formatting it takes 400 instructions.
fn policy_field(rate: Rate) -> HeaderValue {
    thread_local!(static LAST: RefCell<Option<(Rate, HeaderValue)>> = const { RefCell::new(None) });
    LAST.with_borrow_mut(|last| match last {
        Some((of, field)) if *of == rate => field.clone(),
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
