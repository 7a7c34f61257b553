use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    handler::Handler,
    http::{HeaderValue, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{MethodRouter, any, get},
};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    account::account,
    acquire::acquire,
    frame::frame,
    heartbeat::heartbeat,
    list::list,
    lock::{break_lock, inspect},
    openapi::openapi,
    params::BODY_BYTES_MAX,
    problem::{Kind, Problem},
    release::release,
    terraform::terraform,
};
use crate::app::App;

/// Every route of the API, the pages, and what each request passes on its way
/// there.
pub fn router(app: Arc<App>, pages: Router<Arc<App>>) -> Router {
    Router::new()
        .route("/v1/acquire/", lock_route(acquire))
        .route("/v1/acquire/{*name}", lock_route(acquire))
        .route("/v1/heartbeat/", lock_route(heartbeat))
        .route("/v1/heartbeat/{*name}", lock_route(heartbeat))
        .route("/v1/release/", lock_route(release))
        .route("/v1/release/{*name}", lock_route(release))
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
                .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response()))
                .layer(DefaultBodyLimit::max(BODY_BYTES_MAX)),
        )
        .with_state(app)
}

/// What is answered where there is no route.
pub fn not_found() -> Response {
    Problem::new(Kind::NotFound, "there is nothing here").into_response()
}

/// A route that changes a lock: GET and POST. HEAD, which axum would answer
/// like GET, must not acquire anything.
fn lock_route<H, T>(handler: H) -> MethodRouter<Arc<App>>
where
    H: Handler<T, Arc<App>>,
    T: 'static,
{
    get(handler.clone()).post(handler).head(only_get_and_post).fallback(only_get_and_post)
}

async fn only_get_and_post() -> Response {
    let mut response = Problem::new(Kind::MethodNotAllowed, "only GET and POST are allowed here").into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
    response
}
