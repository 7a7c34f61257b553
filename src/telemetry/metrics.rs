use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

/// The metrics for Prometheus. Modules record them through the macros of `metrics`, which do
/// nothing unless this recorder is installed.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    process: Collector,
}

/// Histogram buckets in seconds: an answer takes from 0.1 ms to the longest wait.
const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

impl Metrics {
    /// Interval for moving samples into histogram buckets.
    pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

    /// Installs the recorder.
    ///
    /// # Errors
    /// If a recorder is already installed.
    pub fn begin() -> Result<Self, BuildError> {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), BUCKETS)?;
        let metrics = Self { handle: builder.install_recorder()?, process: Collector::default() };
        metrics.process.describe();
        describe();
        register_zeros();
        gauge!("lockable_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(metrics)
    }

    /// Renders all metrics in Prometheus's text format.
    pub fn render(&self) -> String {
        self.process.collect();
        self.handle.render()
    }

    /// Bounds the memory while nothing scrapes the metrics.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// Registers counters that alerts compare with an earlier value: without an initial 0, the alert
/// would miss the first increment.
fn register_zeros() {
    for (name, label, values) in [
        ("lockable_panics_total", None, &[][..]),
        ("lockable_rate_limited_total", None, &[]),
        ("lockable_requests_shed_total", None, &[]),
        ("lockable_connections_refused_total", None, &[]),
        ("lockable_unauthenticated_total", None, &[]),
        ("lockable_recoveries_total", None, &[]),
        ("lockable_expired_leases_total", Some("noticed_by"), &["holder", "queue"]),
        ("lockable_store_errors_total", Some("kind"), &["not_sent", "no_answer", "refused"]),
        ("lockable_database_errors_total", Some("kind"), &["error", "too_slow"]),
    ] {
        match label {
            None => counter!(name).increment(0),
            Some(label) => values.iter().for_each(|value| counter!(name, label => *value).increment(0)),
        }
    }
}

fn describe() {
    describe_gauge!("lockable_build_info", "The server's version, as a label; the value is always 1");
    describe_counter!("lockable_http_requests_total", "HTTP requests answered, by method, route and status");
    describe_histogram!(
        "lockable_http_request_duration_seconds",
        Unit::Seconds,
        "Time from a request to its answer, including the wait for a lock"
    );
    describe_gauge!("lockable_connections", "Open client connections");
    describe_counter!(
        "lockable_connections_evicted_total",
        "Idle connections closed to accept new ones at the connection limit"
    );
    describe_gauge!("lockable_connections_max", "Limit of open client connections");
    describe_counter!("lockable_connections_refused_total", "Connections rejected at the limit per client address");
    describe_counter!("lockable_requests_shed_total", "Requests rejected at the limit of requests in flight");
    describe_counter!("lockable_lock_requests_total", "Lock operations, by operation and outcome");
    describe_gauge!("lockable_waiters", "Queued requests in this server");
    describe_histogram!(
        "lockable_handover_duration_seconds",
        Unit::Seconds,
        "Time from the hand-over of a lock to the next holder's claim"
    );
    describe_histogram!(
        "lockable_store_duration_seconds",
        Unit::Seconds,
        "Duration of store scripts, including the network"
    );
    describe_counter!("lockable_store_errors_total", "Failed store scripts: not_sent, no_answer or refused");
    describe_counter!("lockable_token_lookups_total", "Token lookups, by source of the result");
    describe_counter!(
        "lockable_releases_unrecorded_total",
        "Releases by a token other than the acquiring one that the audit log does not contain"
    );
    describe_counter!(
        "lockable_token_cache_rejected_total",
        "Token cache entries rejected because of an invalid signature or their age; the database was queried instead"
    );
    describe_counter!("lockable_panics_total", "Panics caught");
    describe_counter!(
        "lockable_expired_leases_total",
        "Expired leases, noticed by the holder's heartbeat or by the queue"
    );
    describe_counter!("lockable_rate_limited_total", "Requests rejected by the account's rate limit");
    describe_counter!("lockable_unauthenticated_total", "Requests without a valid token");
    describe_gauge!("lockable_store_up", "Whether the store is reachable: 1 or 0");
    describe_gauge!("lockable_recovering", "Whether a recovery prevents new grants: 1 or 0");
    describe_gauge!(
        "lockable_store_foreign",
        "Shards for which the database names a store other than this server's; no locks are granted there"
    );
    describe_counter!(
        "lockable_recoveries_total",
        "Recoveries started because this server detected a possible loss of data"
    );
    describe_gauge!("lockable_embedded_bytes", "Memory of locks and queued requests in the embedded store");
    describe_gauge!(
        "lockable_redis_pool_connections",
        "Pooled Redis connections for operations that need a connection of their own"
    );
    describe_gauge!("lockable_database_up", "Whether this server follows account changes in the database: 1 or 0");
    describe_gauge!("lockable_database_connections", "Connections to the account database");
    describe_histogram!(
        "lockable_database_duration_seconds",
        Unit::Seconds,
        "Duration of database queries, including the wait for a connection"
    );
    describe_counter!("lockable_database_errors_total", "Failed database queries, by kind");
}
