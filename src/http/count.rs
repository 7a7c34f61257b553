use std::{sync::LazyLock, time::Duration};

use axum::http::StatusCode;
use metrics::{Counter, Histogram, counter, histogram};

use super::router::Operation;

/// By what a request is counted.
#[derive(Clone, Copy)]
pub(super) enum Counted<'route> {
    /// One of the operations that are asked for all the time.
    As(Operation),
    By {
        route: &'route str,
    },
}

/// What is counted of an operation, found once: to look for a counter by its name
/// and labels costs more than to count.
struct Figures {
    /// Requests that were answered with 200, by GET and by POST.
    answered: [Counter; 2],
    duration: Histogram,
}

static FIGURES: LazyLock<[Figures; 3]> =
    LazyLock::new(|| Operation::ALL.map(|operation| Figures::of(operation.route())));

pub(super) fn count(method: &'static str, counted: Counted<'_>, status: StatusCode, duration: Duration) {
    match counted {
        Counted::As(operation) => {
            let [acquire, heartbeat, release] = &*FIGURES;
            let figures = match operation {
                Operation::Acquire => acquire,
                Operation::Heartbeat => heartbeat,
                Operation::Release => release,
            };
            figures.duration.record(duration);
            let [get, post] = &figures.answered;
            match (status, method) {
                (StatusCode::OK, "GET") => get.increment(1),
                (StatusCode::OK, "POST") => post.increment(1),
                _ => requests(method, operation.route(), status).increment(1),
            }
        }
        Counted::By { route } => {
            requests(method, route, status).increment(1);
            durations(route).record(duration);
        }
    }
}

impl Figures {
    fn of(route: &str) -> Self {
        Self {
            answered: ["GET", "POST"].map(|method| requests(method, route, StatusCode::OK)),
            duration: durations(route),
        }
    }
}

fn requests(method: &'static str, route: &str, status: StatusCode) -> Counter {
    let (route, status) = (route.to_owned(), status.as_str().to_owned());
    counter!("lockable_http_requests_total", "method" => method, "route" => route, "status" => status)
}

fn durations(route: &str) -> Histogram {
    histogram!("lockable_http_request_duration_seconds", "route" => route.to_owned())
}
