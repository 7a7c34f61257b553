use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

/// What is measured, for Prometheus to fetch. Rooms count through the macros of
/// `metrics`, which do nothing unless this was made.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    process: Collector,
}

/// In which classes times are counted, in seconds: an answer takes from a tenth
/// of a millisecond to the longest wait.
const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

impl Metrics {
    /// How often samples are put into their classes.
    pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

    /// Begins to measure.
    ///
    /// # Errors
    /// When it is measured already.
    pub fn begin() -> Result<Self, BuildError> {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), BUCKETS)?;
        let metrics = Self { handle: builder.install_recorder()?, process: Collector::default() };
        metrics.process.describe();
        describe();
        gauge!("lockable_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(metrics)
    }

    /// Everything, in Prometheus's text format.
    pub fn render(&self) -> String {
        self.process.collect();
        self.handle.render()
    }

    /// Keeps memory bounded while nobody fetches.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn describe() {
    describe_gauge!("lockable_build_info", "Which version this is, as a label; always 1");
    describe_counter!("lockable_http_requests_total", "Requests that were answered");
    describe_histogram!(
        "lockable_http_request_duration_seconds",
        Unit::Seconds,
        "From a request to its answer, waiting included"
    );
    describe_gauge!("lockable_connections", "Connections that are open");
    describe_counter!("lockable_lock_requests_total", "What became of requests about locks");
    describe_gauge!("lockable_waiters", "Requests that wait for a lock in this server");
    describe_histogram!(
        "lockable_handover_duration_seconds",
        Unit::Seconds,
        "From handing a lock over to its being collected"
    );
    describe_histogram!(
        "lockable_keyspace_duration_seconds",
        Unit::Seconds,
        "How long scripts took, the way to Redis included"
    );
    describe_counter!("lockable_keyspace_errors_total", "Scripts without an answer, by what is known of them");
    describe_counter!("lockable_token_lookups_total", "Where it was found whose a token is");
    describe_counter!("lockable_panics_total", "Faults of the program that were caught");
}
