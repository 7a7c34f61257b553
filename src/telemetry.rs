//! Logs: one line or one JSON object for each event, on standard error. Traces,
//! to a collector. Metrics.

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

/// Why there can be no log, or no traces.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("{filter:?} is no filter for logs, which look like \"info\" or \"warn,lockable=debug\": {reason}")]
    Filter { filter: String, reason: ParseError },
    #[error("cannot send traces: {0}")]
    Traces(String),
    #[error("logs are set up already")]
    Twice,
}

/// Sends what the process has to say to standard error, panics included, and
/// traces to their collector, until [`Traces::finish`].
///
/// # Errors
/// When a setting cannot be used, or on a second call.
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
    // A panic is a fault of ours. It must be found where everything else is,
    // in the same form.
    panic::set_hook(Box::new(|panic| {
        ::metrics::counter!("lockable_panics_total").increment(1);
        tracing::error!(%panic, "a task panicked");
    }));
    Ok(traces)
}

/// Fields as the layer writes them without colors, of which it would have each have one all the
/// same: that takes a twentieth of all instructions of a request.
fn plain_fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    let write = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| match field.name() {
        "message" => write!(writer, "{value:?}"),
        name => write!(writer, "{name}={value:?}"),
    };
    debug_fn(write).delimited(" ")
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
