use std::{fmt::Display, future::Future, time::Instant};

use metrics::{counter, histogram};
use tracing::{Instrument, debug_span};

/// Does something with the database while a server runs, and measures how long
/// it took and what became of it, also when nobody waits for it any more.
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
    /// Of what kind it is, if it is one.
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
