use std::{fmt::Display, future::Future, time::Instant};

use metrics::{counter, histogram};
use tracing::{Instrument, debug_span};

/// Runs a database operation of a server and records its duration and outcome, also if it is
/// dropped by a timeout.
pub(super) async fn measured<T, E: Display>(
    operation: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let span = debug_span!(target: "lockable::spans", "sql", otel.kind = "client", db.operation.name = operation);
    let mut measure = Measure { operation, begun: Instant::now(), failure: Some("too_slow") };
    let outcome = work.instrument(span).await;
    measure.failure = outcome.is_err().then_some("error");
    outcome
}

struct Measure {
    operation: &'static str,
    begun: Instant,
    /// The kind of failure, if any.
    failure: Option<&'static str>,
}

impl Drop for Measure {
    fn drop(&mut self) {
        histogram!("lockable_database_duration_seconds", "operation" => self.operation).record(self.begun.elapsed());
        if let Some(kind) = self.failure {
            counter!("lockable_database_errors_total", "kind" => kind).increment(1);
        }
    }
}
