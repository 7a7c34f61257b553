use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use metrics::counter;

use super::{frame::Frame, problem::Problem};
use crate::app::App;

/// Works on no more requests at once than the settings say, so that under too
/// much load those that are begun are still answered in time. What keeps a lock
/// or frees it is let through: a holder must not lose its lock because others
/// ask for theirs.
pub(super) async fn shed(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if is_spared(&request) {
        return next.run(request).await;
    }
    match app.requests.clone().try_acquire_owned() {
        Ok(place) => {
            // It is kept for as long as the request is worked on, see `Frame::may_wait`.
            if let Some(frame) = request.extensions().get::<Arc<Frame>>() {
                frame.take_place(place);
            }
            next.run(request).await
        }
        Err(_) => {
            counter!("lockable_requests_shed_total").increment(1);
            Problem::unavailable("too much is asked at once; heartbeats and releases go first").into_response()
        }
    }
}

fn is_spared(request: &Request) -> bool {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let ends_a_hold = request.method() == Method::DELETE || request.method().as_str() == "UNLOCK";
    route.starts_with("/v1/heartbeat/") || route.starts_with("/v1/release/") || ends_a_hold
}
