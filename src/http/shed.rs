use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
};
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use crate::app::App;

/// A request's place among those that are worked on: no more at once than the
/// settings say, so that under too much load those that are begun are still
/// answered in time. What keeps a lock or frees it needs none: a holder must not
/// lose its lock because others ask for theirs.
#[derive(Default)]
pub(super) struct Place {
    /// Those that there are; none for who needs no place.
    places: Option<Arc<Semaphore>>,
    taken: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Place {
    /// That of a request which has yet to take it.
    pub fn of(app: &App, request: &Request) -> Self {
        Self { places: (!is_spared(request)).then(|| app.requests.clone()), taken: Mutex::default() }
    }

    pub fn take(&self) -> Result<(), Problem> {
        let Some(places) = &self.places else { return Ok(()) };
        let Ok(place) = places.clone().try_acquire_owned() else {
            counter!("lockable_requests_shed_total").increment(1);
            return Err(Problem::unavailable("too much is asked at once; heartbeats and releases go first"));
        };
        self.put(Some(place));
        Ok(())
    }

    /// Gives it back while the request waits: for a lock, or for the client.
    pub fn leave(&self) {
        self.put(None);
    }

    fn put(&self, place: Option<OwnedSemaphorePermit>) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }
}

fn is_spared(request: &Request) -> bool {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let unlocks = request.method() == Method::DELETE || request.method().as_str() == "UNLOCK";
    let is_terraform = route.starts_with("/v1/terraform/");
    route.starts_with("/v1/heartbeat/") || route.starts_with("/v1/release/") || (is_terraform && unlocks)
}
