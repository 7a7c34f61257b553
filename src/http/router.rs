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
    count::Counted,
    heartbeat::heartbeat,
    list::list,
    load_shed::Place,
    lock::{break_lock, inspect},
    lock_path::lock_name,
    openapi::openapi,
    params::{AcquireParams, BODY_BYTES_MAX, HeartbeatParams, ReleaseParams},
    problem::{Kind, Problem},
    release::release,
    request_context::{Frame, Passage, frame},
    service::Service,
    strict::refuse_unfit,
    terraform::terraform,
};
use crate::{app::App, limits::RateShare};

/// Every route of the API but the three that are asked for all the time, which
/// [`Operation`] lists, and the pages.
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
        .method_not_allowed_fallback(async || Problem::new(Kind::MethodNotAllowed, "the field Allow names the methods"))
        .layer(
            // One for all of them: each layer of a router is boxed, for each request.
            // The first is the outermost.
            ServiceBuilder::new()
                .layer(middleware::from_fn_with_state(app.clone(), frame))
                .layer(CatchPanicLayer::custom(panicked))
                .layer(DefaultBodyLimit::max(BODY_BYTES_MAX)),
        )
        .with_state(app)
}

/// What is asked for all the time: the routes that change a lock, by GET and POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Acquire,
    Heartbeat,
    Release,
}

impl Operation {
    pub(super) const ALL: [Self; 3] = [Self::Acquire, Self::Heartbeat, Self::Release];

    /// As a router would call it.
    pub(super) fn route(self) -> &'static str {
        match self {
            Self::Acquire => "/v1/acquire/{*name}",
            Self::Heartbeat => "/v1/heartbeat/{*name}",
            Self::Release => "/v1/release/{*name}",
        }
    }

    fn at(path: &str) -> Option<Self> {
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

/// All that is served to clients.
pub fn service(app: &Arc<App>, pages: Router<Arc<App>>) -> Api {
    Api { app: app.clone(), router: router(app.clone(), pages) }
}

/// Requests for an operation go their way without the router: finding a handler,
/// its arguments and the layers around it would take as much time again as all
/// that they need.
impl Service for Api {
    fn answer(&self, request: Request<Incoming>, connection: &Connection) -> impl Future<Output = Response> + Send {
        match Operation::at(request.uri().path()) {
            Some(operation) => Either::Left(self.operate(operation, request, connection)),
            // Boxed: its room would be taken in every connection.
            None => Either::Right(Box::pin(self.router.answer(request, connection))),
        }
    }
}

/// A request is borrowed all the way down: an `async fn` has room for what it is
/// given twice, and a request that waits would have it for as long.
impl Api {
    fn operate(
        &self,
        operation: Operation,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> impl Future<Output = Response> + Send {
        let (mut parts, mut body) = request.into_parts();
        async move {
            let passage = Passage::begin(&parts.method, operation.route(), &parts.headers);
            let frame = Arc::new(Frame::new(passage.started, Place::of(&self.app, operation.route(), &parts.method)));
            let running =
                AssertUnwindSafe(self.run(operation, &mut parts, &mut body, connection, &frame)).catch_unwind();
            let answering = running.map(|answered| answered.map_or_else(panicked, IntoResponse::into_response));
            let response = passage.answer(&self.app, &frame, pin!(answering)).await;
            passage.end(&self.app, &frame, response, Counted::As(operation))
        }
    }

    async fn run(
        &self,
        operation: Operation,
        parts: &mut Parts,
        body: &mut Incoming,
        connection: &Connection,
        frame: &Arc<Frame>,
    ) -> Result<Response, Response> {
        // HEAD, which a router would answer like GET, must not acquire anything.
        if !matches!(parts.method, Method::GET | Method::POST) {
            return Err(only_get_and_post());
        }
        refuse_unfit(parts.version, &parts.headers).map_err(Problem::into_response)?;
        let answered = self.run_authorized(operation, parts, body, connection, frame).await;
        answered.map_err(Problem::into_response)
    }

    async fn run_authorized(
        &self,
        operation: Operation,
        parts: &mut Parts,
        body: &mut Incoming,
        connection: &Connection,
        frame: &Arc<Frame>,
    ) -> Result<Response, Problem> {
        let app = &*self.app;
        let share = if matches!(operation, Operation::Acquire) { RateShare::Ask } else { RateShare::Keep };
        let caller = Authorized::admit(&parts.headers, Some(connection), frame.clone(), app, share).await?;
        let name = lock_name(&parts.uri)?;
        match operation {
            Operation::Acquire => {
                let params = AcquireParams::read(parts, body, frame).await?;
                // It may wait for long, and the buffer that its head was read into with it.
                *parts = Request::new(()).into_parts().0;
                acquire(app, connection, &caller, name, params).await
            }
            Operation::Heartbeat => {
                let params = HeartbeatParams::read(parts, body, frame).await?;
                heartbeat(app, &caller, name, params).await
            }
            Operation::Release => {
                let params = ReleaseParams::read(parts, body, frame).await?;
                release(app, &caller, name, params).await
            }
        }
    }
}

/// What is answered where there is no route.
pub fn not_found() -> Response {
    Problem::new(Kind::NotFound, "there is nothing here").into_response()
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    Problem::internal().into_response()
}

fn only_get_and_post() -> Response {
    let mut response = Problem::new(Kind::MethodNotAllowed, "only GET and POST are allowed here").into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
    response
}
