//! What operators and their machines ask, on a listener of its own.

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

use crate::{app::App, locks::Belonging};

/// What the admin listener answers from.
#[derive(Clone)]
struct Admin {
    app: Arc<App>,
    leaving: CancellationToken,
    render: Arc<dyn Fn() -> String + Send + Sync>,
}

/// How ready a server is. None of it is asked for when a probe comes: it is
/// known from what goes on all the time.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// It was asked to stop.
    leaving: bool,
    /// Whether those who know about locks can be reached, and whether locks are
    /// granted. While grants may have been forgotten they are not, and heartbeats
    /// and releases must get through all the same, so the server stays ready. It is not
    /// while the database names another store, or was not asked yet.
    locks: &'static str,
    /// How long that will last.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovering_ms: Option<u64>,
    /// Whether the account database can. Without it tokens that are in use are
    /// known all the same, so the server stays ready.
    accounts: &'static str,
}

/// The routes of the admin listener. `leaving` is cancelled when the server is
/// asked to stop; `render` says what was measured.
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
    let word = |is_there: bool| if is_there { "ok" } else { "away" };
    let leaving = admin.leaving.is_cancelled();
    let is_reachable = admin.app.locks.is_reachable();
    let belonging = admin.app.locks.belonging();
    let ready = is_reachable && belonging == Belonging::Ours && !leaving;
    let recovering_ms = admin.app.locks.recovery_rest().map(|rest| rest.as_millis() as u64);
    let locks = match belonging {
        _ if !is_reachable => "away",
        Belonging::Foreign => "foreign",
        _ if recovering_ms.is_some() => "recovering",
        Belonging::Unknown => "unconfirmed",
        Belonging::Ours => "ok",
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let accounts = word(admin.app.directory.is_following());
    (status, Json(Readiness { ready, leaving, locks, recovering_ms, accounts })).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    admin.app.locks.measure();
    admin.app.directory.measure();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (admin.render)()).into_response()
}
