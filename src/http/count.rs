use std::{sync::LazyLock, time::Duration};

use axum::http::StatusCode;
use metrics::{Counter, Histogram, counter, histogram};

use super::router::HotRoute;

/// The route label of a request's metrics.
#[derive(Clone, Copy)]
pub(super) enum MetricRoute<'route> {
    /// A hot route, whose metrics are cached.
    Hot(HotRoute),
    Other {
        route: &'route str,
    },
}

/// The cached metrics of a hot route: finding a counter by its name and labels costs more than
/// incrementing it.
struct RouteMetrics {
    /// Requests with status 200, by GET and by POST.
    ok_requests: [Counter; 2],
    duration: Histogram,
}

static HOT_ROUTE_METRICS: LazyLock<[RouteMetrics; 3]> =
    LazyLock::new(|| HotRoute::ALL.map(|hot_route| RouteMetrics::new(hot_route.pattern())));

pub(super) fn record_request(
    method: &'static str,
    metric_route: MetricRoute<'_>,
    status: StatusCode,
    duration: Duration,
) {
    match metric_route {
        MetricRoute::Hot(hot_route) => {
            let [acquire, heartbeat, release] = &*HOT_ROUTE_METRICS;
            let metrics = match hot_route {
                HotRoute::Acquire => acquire,
                HotRoute::Heartbeat => heartbeat,
                HotRoute::Release => release,
            };
            metrics.duration.record(duration);
            let [get, post] = &metrics.ok_requests;
            match (status, method) {
                (StatusCode::OK, "GET") => get.increment(1),
                (StatusCode::OK, "POST") => post.increment(1),
                _ => requests(method, hot_route.pattern(), status).increment(1),
            }
        }
        MetricRoute::Other { route } => {
            requests(method, route, status).increment(1);
            durations(route).record(duration);
        }
    }
}

impl RouteMetrics {
    fn new(route: &str) -> Self {
        Self {
            ok_requests: ["GET", "POST"].map(|method| requests(method, route, StatusCode::OK)),
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
