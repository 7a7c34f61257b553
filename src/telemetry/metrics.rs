use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
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
        begin_at_zero();
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

/// Counts that alerts compare with what they were before: what has not happened
/// yet must be there as 0, or the first time is missed.
fn begin_at_zero() {
    for (name, label, values) in [
        ("lockable_panics_total", None, &[][..]),
        ("lockable_rate_limited_total", None, &[]),
        ("lockable_requests_shed_total", None, &[]),
        ("lockable_connections_refused_total", None, &[]),
        ("lockable_unauthenticated_total", None, &[]),
        ("lockable_recoveries_total", None, &[]),
        ("lockable_lapses_total", Some("noticed_by"), &["holder", "line"]),
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
    describe_gauge!("lockable_build_info", "Which version this is, as a label; always 1");
    describe_counter!("lockable_http_requests_total", "Requests that were answered");
    describe_histogram!(
        "lockable_http_request_duration_seconds",
        Unit::Seconds,
        "From a request to its answer, waiting included"
    );
    describe_gauge!("lockable_connections", "Connections that are open");
    describe_counter!(
        "lockable_connections_evicted_total",
        "Idle connections closed for new ones, as there were as many as there may be"
    );
    describe_gauge!("lockable_connections_max", "How many connections there may be");
    describe_counter!(
        "lockable_connections_refused_total",
        "Connections that were closed because their address had as many as it may"
    );
    describe_counter!("lockable_requests_shed_total", "Requests that were refused because too many were worked on");
    describe_counter!("lockable_lock_requests_total", "What became of requests about locks");
    describe_gauge!("lockable_waiters", "Requests that wait for a lock in this server");
    describe_histogram!(
        "lockable_handover_duration_seconds",
        Unit::Seconds,
        "From handing a lock over to its being collected"
    );
    describe_histogram!(
        "lockable_store_duration_seconds",
        Unit::Seconds,
        "How long scripts took, the way to Redis included"
    );
    describe_counter!("lockable_store_errors_total", "Scripts without an answer, by what is known of them");
    describe_counter!("lockable_token_lookups_total", "Where it was found whose a token is");
    describe_counter!(
        "lockable_releases_unrecorded_total",
        "Releases by another token than the one that acquired the lock which are not in the audit log"
    );
    describe_counter!(
        "lockable_token_cache_rejected_total",
        "Entries of tokens in Redis that no server has signed, or that are too old: tokens were looked up in the database"
    );
    describe_counter!("lockable_panics_total", "Faults of the program that were caught");
    describe_counter!(
        "lockable_lapses_total",
        "Leases found to have lapsed, by the holder's heartbeat or for the line"
    );
    describe_counter!("lockable_rate_limited_total", "Requests refused because their account's rate was used up");
    describe_counter!("lockable_unauthenticated_total", "Requests without a token that anybody has");
    describe_gauge!("lockable_store_up", "Whether locks can be asked for: 1, or 0 while Redis is away");
    describe_gauge!("lockable_recovering", "Whether grants may have been forgotten, so that none are made: 1, or 0");
    describe_gauge!(
        "lockable_store_foreign",
        "Of how many shards the database names another store than this server works with, so that it grants nothing"
    );
    describe_counter!("lockable_recoveries_total", "How often this server was the first to notice such a loss");
    describe_gauge!("lockable_embedded_bytes", "Memory that locks and waiting requests take in a server without Redis");
    describe_gauge!("lockable_redis_pool_connections", "Connections to Redis for one user at a time");
    describe_gauge!("lockable_database_up", "Whether changes of accounts are followed: 1, or 0");
    describe_gauge!("lockable_database_connections", "Connections to the account database");
    describe_histogram!(
        "lockable_database_duration_seconds",
        Unit::Seconds,
        "How long the account database took, waiting for a connection included"
    );
    describe_counter!("lockable_database_errors_total", "What the account database did not do");
}
