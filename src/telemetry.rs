//! Logs to standard error, one line or one JSON object per event; traces to a collector; metrics.

mod metrics;
mod traces;

use std::{
    fmt::Debug,
    io::{self, IsTerminal as _},
    panic,
};

use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    field::MakeExt as _,
    filter::ParseError,
    fmt::{
        self, FormatFields,
        format::{Writer, debug_fn},
    },
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub use self::{metrics::Metrics, traces::Traces};
use crate::config::{LogFormat, LogSettings, TraceSettings};

/// Why logs or traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("invalid log filter {filter:?}: {reason}; use a filter such as \"info\" or \"warn,lockable=debug\"")]
    Filter { filter: String, reason: ParseError },
    #[error("cannot send traces: {0}")]
    Traces(String),
    #[error("logs are already set up")]
    Twice,
}

/// Sets up logs, including panics, and traces until [`Traces::finish`].
///
/// # Errors
/// If a setting is invalid, or on a second call.
pub fn init(log: &LogSettings, traces: &TraceSettings) -> Result<Traces, TelemetryError> {
    let filter = read_filter(log)?;
    let (traces, exported) = Traces::start(traces)?;
    let lines = fmt::layer().with_writer(io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Text if io::stderr().is_terminal() => lines.with_ansi(true).boxed(),
        LogFormat::Text => lines.with_ansi(false).fmt_fields(plain_fields()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let set = tracing_subscriber::registry().with(lines.with_filter(filter)).with(exported).try_init();
    set.map_err(|_| TelemetryError::Twice)?;
    // Panics are bugs: they are logged with everything else, in the same format.
    panic::set_hook(Box::new(|panic| {
        ::metrics::counter!("lockable_panics_total").increment(1);
        tracing::error!(%panic, "a task panicked; please report this bug");
    }));
    Ok(traces)
}

/// Formats fields without color codes. The layer would compute a color for each field even with
/// colors disabled, which takes 5 % of a request's instructions.
fn plain_fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    let write = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| match field.name() {
        "message" => write!(writer, "{value:?}"),
        name => write!(writer, "{name}={value:?}"),
    };
    debug_fn(write).delimited(" ")
}

/// Checks the log filter.
///
/// # Errors
/// If the filter is invalid.
pub fn check(settings: &LogSettings) -> Result<(), TelemetryError> {
    read_filter(settings).map(drop)
}

fn read_filter(settings: &LogSettings) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(&settings.filter)
        .map_err(|reason| TelemetryError::Filter { filter: settings.filter.clone(), reason })
}
