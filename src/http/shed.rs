use axum::{
    extract::{MatchedPath, Request},
    http::Method,
};
use metrics::counter;
use tokio::sync::OwnedSemaphorePermit;

use super::problem::Problem;
use crate::app::App;

/// Finds a place for a request among those that are worked on: no more at once
/// than the settings say, so that under too much load those that are begun are
/// still answered in time. What keeps a lock or frees it needs none: a holder
/// must not lose its lock because others ask for theirs.
pub(super) fn place(app: &App, request: &Request) -> Result<Option<OwnedSemaphorePermit>, Problem> {
    if is_spared(request) {
        return Ok(None);
    }
    match app.requests.clone().try_acquire_owned() {
        Ok(place) => Ok(Some(place)),
        Err(_) => {
            counter!("lockable_requests_shed_total").increment(1);
            Err(Problem::unavailable("too much is asked at once; heartbeats and releases go first"))
        }
    }
}

fn is_spared(request: &Request) -> bool {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let unlocks = request.method() == Method::DELETE || request.method().as_str() == "UNLOCK";
    let is_terraform = route.starts_with("/v1/terraform/");
    route.starts_with("/v1/heartbeat/") || route.starts_with("/v1/release/") || (is_terraform && unlocks)
}
