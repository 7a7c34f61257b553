//! Logs: one line or one JSON object for each event, on standard error. Metrics.

mod metrics;

use std::{io, panic};

use tracing_subscriber::{EnvFilter, filter::ParseError};

pub use self::metrics::Metrics;
use crate::config::{LogFormat, LogSettings};

/// Why no log can be written.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("{filter:?} is no filter for logs, which look like \"info\" or \"warn,lockable=debug\": {reason}")]
    Filter { filter: String, reason: ParseError },
    #[error("logs are set up already")]
    Twice,
}

/// Sends what the process has to say to standard error, panics included.
///
/// # Errors
/// When the filter cannot be read, or on a second call.
pub fn init(settings: &LogSettings) -> Result<(), TelemetryError> {
    let filter = read_filter(settings)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let set = match settings.format {
        LogFormat::Text => log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    set.map_err(|_| TelemetryError::Twice)?;
    // A panic is a fault of ours. It must be found where everything else is,
    // in the same form.
    panic::set_hook(Box::new(|panic| {
        ::metrics::counter!("lockable_panics_total").increment(1);
        tracing::error!(%panic, "a task panicked");
    }));
    Ok(())
}

/// Finds a filter that cannot be read.
///
/// # Errors
/// When the filter cannot be read.
pub fn check(settings: &LogSettings) -> Result<(), TelemetryError> {
    read_filter(settings).map(drop)
}

fn read_filter(settings: &LogSettings) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(&settings.filter)
        .map_err(|reason| TelemetryError::Filter { filter: settings.filter.clone(), reason })
}
