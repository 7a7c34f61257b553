use std::{any::Any, future::Future, panic::AssertUnwindSafe, pin::pin, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, Method, Request, header, request::Parts},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use futures_util::{FutureExt, future::Either};
use hyper::body::Incoming;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    account::account,
    acquire::acquire,
    caller::Authorized,
    connection::Connection,
    count::MetricRoute,
    heartbeat::heartbeat,
    list::list,
    load_shed::InFlightPermit,
    lock::{break_lock, inspect},
    lock_path::lock_name,
    openapi::openapi,
    params::{AcquireParams, BODY_BYTES_MAX, HeartbeatParams, ReleaseParams},
    problem::{Problem, ProblemKind},
    release::release,
    request_context::{RequestContext, RequestTracker, with_request_context},
    service::Service,
    strict::refuse_ambiguous_or_prefetch,
    terraform::terraform,
};
use crate::{app::App, limits::RateClass};

/// All routes except the three of [`HotRoute`].
fn router(app: Arc<App>, pages: Router<Arc<App>>) -> Router {
    Router::new()
        .route("/v1/locks", get(list))
        .route("/v1/locks/", get(inspect).delete(break_lock))
        .route("/v1/locks/{*name}", get(inspect).delete(break_lock))
        .route("/v1/account", get(account))
        .route("/v1/terraform/", any(terraform))
        .route("/v1/terraform/{*name}", any(terraform))
        .route("/openapi.json", get(openapi))
        .merge(pages)
        .method_not_allowed_fallback(async || {
            Problem::new(
                ProblemKind::MethodNotAllowed,
                "this route does not support the method; use a method from the Allow header",
            )
        })
        .layer(
            // One combined layer: axum boxes each layer of a router for each request. The first is the
            // outermost.
            ServiceBuilder::new()
                .layer(middleware::from_fn_with_state(app.clone(), with_request_context))
                .layer(CatchPanicLayer::custom(panicked))
                .layer(DefaultBodyLimit::max(BODY_BYTES_MAX)),
        )
        .with_state(app)
}

/// The routes that change a lock, by GET and POST. They get nearly all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HotRoute {
    Acquire,
    Heartbeat,
    Release,
}

impl HotRoute {
    pub(super) const ALL: [Self; 3] = [Self::Acquire, Self::Heartbeat, Self::Release];

    /// The route pattern, as axum writes it.
    pub(super) fn pattern(self) -> &'static str {
        match self {
            Self::Acquire => "/v1/acquire/{*name}",
            Self::Heartbeat => "/v1/heartbeat/{*name}",
            Self::Release => "/v1/release/{*name}",
        }
    }

    fn from_path(path: &str) -> Option<Self> {
        let (operation, _) = path.strip_prefix("/v1/")?.split_once('/')?;
        match operation {
            "acquire" => Some(Self::Acquire),
            "heartbeat" => Some(Self::Heartbeat),
            "release" => Some(Self::Release),
            _ => None,
        }
    }
}

/// The API and the pages.
pub struct Api {
    app: Arc<App>,
    router: Router,
}

/// Creates the service of all client requests.
pub fn service(app: &Arc<App>, pages: Router<Arc<App>>) -> Api {
    Api { app: app.clone(), router: router(app.clone(), pages) }
}

/// Hot routes bypass the router: its dispatch, extractors and layers take as long as the rest of such a
/// request.
impl Service for Api {
    fn answer(&self, request: Request<Incoming>, connection: &Connection) -> impl Future<Output = Response> + Send {
        match HotRoute::from_path(request.uri().path()) {
            Some(hot_route) => Either::Left(self.serve_hot_route(hot_route, request, connection)),
            // Boxed: its future would enlarge the future of every connection.
            None => Either::Right(Box::pin(self.router.answer(request, connection))),
        }
    }
}

/// These functions borrow the request: an `async fn` stores its arguments twice, for as long as the
/// request waits.
impl Api {
    fn serve_hot_route(
        &self,
        hot_route: HotRoute,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> impl Future<Output = Response> + Send {
        let (mut parts, mut body) = request.into_parts();
        async move {
            let tracker = RequestTracker::begin(&parts.method, hot_route.pattern(), &parts.headers);
            let context = Arc::new(RequestContext::new(
                tracker.start,
                InFlightPermit::for_request(&self.app, hot_route.pattern(), &parts.method),
            ));
            let running =
                AssertUnwindSafe(self.run(hot_route, &mut parts, &mut body, connection, &context)).catch_unwind();
            let response = running.map(|result| result.map_or_else(panicked, IntoResponse::into_response));
            let response = tracker.run(&self.app, &context, pin!(response)).await;
            tracker.finish(&self.app, &context, response, MetricRoute::Hot(hot_route))
        }
    }

    async fn run(
        &self,
        hot_route: HotRoute,
        parts: &mut Parts,
        body: &mut Incoming,
        connection: &Connection,
        context: &Arc<RequestContext>,
    ) -> Result<Response, Response> {
        // A HEAD request must not acquire a lock; axum would route it like GET.
        if !matches!(parts.method, Method::GET | Method::POST) {
            return Err(only_get_and_post());
        }
        refuse_ambiguous_or_prefetch(parts.version, &parts.headers).map_err(Problem::into_response)?;
        let result = self.run_authorized(hot_route, parts, body, connection, context).await;
        result.map_err(Problem::into_response)
    }

    async fn run_authorized(
        &self,
        hot_route: HotRoute,
        parts: &mut Parts,
        body: &mut Incoming,
        connection: &Connection,
        context: &Arc<RequestContext>,
    ) -> Result<Response, Problem> {
        let app = &*self.app;
        let rate_class = if matches!(hot_route, HotRoute::Acquire) { RateClass::General } else { RateClass::Renewal };
        let caller = Authorized::admit(&parts.headers, Some(connection), context.clone(), app, rate_class).await?;
        let name = lock_name(&parts.uri)?;
        match hot_route {
            HotRoute::Acquire => {
                let params = AcquireParams::read(parts, body, context).await?;
                // Free the buffer of the request line and headers: the request may wait for a minute.
                *parts = Request::new(()).into_parts().0;
                acquire(app, connection, &caller, name, params).await
            }
            HotRoute::Heartbeat => {
                let params = HeartbeatParams::read(parts, body, context).await?;
                heartbeat(app, &caller, name, params).await
            }
            HotRoute::Release => {
                let params = ReleaseParams::read(parts, body, context).await?;
                release(app, &caller, name, params).await
            }
        }
    }
}

/// The response for an unknown path.
pub fn not_found() -> Response {
    Problem::new(ProblemKind::NotFound, "the server has no route for this path; check the URL").into_response()
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::internal().into_response()
}

fn only_get_and_post() -> Response {
    let mut response =
        Problem::new(ProblemKind::MethodNotAllowed, "this route supports only GET and POST").into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
    response
}
