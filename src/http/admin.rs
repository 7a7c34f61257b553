//! The admin listener: probes and metrics.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{app::App, locks::StoreMatch};

/// The state of the admin routes.
#[derive(Clone)]
struct Admin {
    app: Arc<App>,
    leaving: CancellationToken,
    render: Arc<dyn Fn() -> String + Send + Sync>,
}

/// The readiness of the server. A probe causes no request to Redis or the database; background tasks
/// keep these values current.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// The server is stopping.
    leaving: bool,
    /// The state of the lock store. During a recovery the server stays ready, because it must serve
    /// heartbeats and releases. It is not ready while the store is unreachable, while the database
    /// names another store, or before the server has compared its store with the database.
    locks: &'static str,
    /// The remaining time of the recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovering_ms: Option<u64>,
    /// The state of the account database. Without it the server stays ready, because tokens in use are
    /// cached.
    accounts: &'static str,
}

/// Creates the routes of the admin listener. `leaving` is cancelled when the server begins to stop;
/// `render` returns the metrics in the Prometheus text format.
pub fn admin_router(
    app: Arc<App>,
    leaving: CancellationToken,
    render: Arc<dyn Fn() -> String + Send + Sync>,
) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Admin { app, leaving, render })
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let state_text = |is_available: bool| if is_available { "ok" } else { "away" };
    let leaving = admin.leaving.is_cancelled();
    let is_reachable = admin.app.locks.is_reachable();
    let store_match = admin.app.locks.store_match();
    let ready = is_reachable && store_match == StoreMatch::Named && !leaving;
    let recovering_ms = admin.app.locks.recovery_remaining().map(|remaining| remaining.as_millis() as u64);
    let locks = match store_match {
        _ if !is_reachable => "away",
        StoreMatch::Foreign => "foreign",
        _ if recovering_ms.is_some() => "recovering",
        StoreMatch::Unknown => "unconfirmed",
        StoreMatch::Named => "ok",
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let accounts = state_text(admin.app.token_cache.is_feed_up());
    (status, Json(Readiness { ready, leaving, locks, recovering_ms, accounts })).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    admin.app.locks.record_metrics();
    admin.app.token_cache.measure();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (admin.render)()).into_response()
}
