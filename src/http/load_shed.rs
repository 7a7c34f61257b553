use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::http::Method;
use metrics::counter;

use super::problem::Problem;
use crate::{app::App, limits::Places};

/// A request's place among those that are worked on: no more at once than the
/// settings say, so that under too much load those that are begun are still
/// answered in time. What keeps a lock or frees it needs none: a holder must not
/// lose its lock because others ask for theirs.
#[derive(Default)]
pub(super) struct Place {
    /// Those that there are; none for who needs no place.
    places: Option<Arc<Places>>,
    is_taken: AtomicBool,
}

impl Place {
    /// That of a request which has yet to take it.
    pub(super) fn of(app: &App, route: &str, method: &Method) -> Self {
        Self { places: (!is_spared(route, method)).then(|| app.requests.clone()), is_taken: AtomicBool::new(false) }
    }

    pub(super) fn take(&self) -> Result<(), Problem> {
        let Some(places) = &self.places else { return Ok(()) };
        if self.is_taken.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !places.take() {
            counter!("lockable_requests_shed_total").increment(1);
            return Err(Problem::unavailable("too much is asked at once; heartbeats and releases go first"));
        }
        self.is_taken.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Gives it back while the request waits: for a lock, or for the client.
    pub(super) fn leave(&self) {
        if let Some(places) = &self.places
            && self.is_taken.swap(false, Ordering::Relaxed)
        {
            places.give_back();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

fn is_spared(route: &str, method: &Method) -> bool {
    let unlocks = method == Method::DELETE || method.as_str() == "UNLOCK";
    let is_terraform = route.starts_with("/v1/terraform/");
    route.starts_with("/v1/heartbeat/") || route.starts_with("/v1/release/") || (is_terraform && unlocks)
}
