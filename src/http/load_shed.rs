use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::http::Method;
use metrics::counter;

use super::problem::Problem;
use crate::{app::App, limits::InFlightLimit};

/// A request's permit of the limit of requests in flight. Beyond the limit the server sheds requests,
/// so that it still completes the accepted ones in time. Heartbeats and releases need no permit: a
/// holder must not lose its lock because of other requests.
#[derive(Default)]
pub(super) struct InFlightPermit {
    /// `None` for requests that need no permit.
    limit: Option<Arc<InFlightLimit>>,
    is_held: AtomicBool,
}

impl InFlightPermit {
    /// The permit of a request, not acquired yet.
    pub(super) fn for_request(app: &App, route: &str, method: &Method) -> Self {
        Self { limit: (!is_exempt(route, method)).then(|| app.in_flight.clone()), is_held: AtomicBool::new(false) }
    }

    pub(super) fn acquire(&self) -> Result<(), Problem> {
        let Some(limit) = &self.limit else { return Ok(()) };
        if self.is_held.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !limit.try_acquire() {
            counter!("lockable_requests_shed_total").increment(1);
            return Err(Problem::unavailable(
                "the server is overloaded and serves only heartbeats and releases; retry",
            ));
        }
        self.is_held.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Releases the permit, also while the request waits for a lock or for its client.
    pub(super) fn release(&self) {
        if let Some(limit) = &self.limit
            && self.is_held.swap(false, Ordering::Relaxed)
        {
            limit.release();
        }
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.release();
    }
}

fn is_exempt(route: &str, method: &Method) -> bool {
    let unlocks = method == Method::DELETE || method.as_str() == "UNLOCK";
    let is_terraform = route.starts_with("/v1/terraform/");
    route.starts_with("/v1/heartbeat/") || route.starts_with("/v1/release/") || (is_terraform && unlocks)
}
