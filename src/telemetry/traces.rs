use std::time::Duration;

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use super::TelemetryError;
use crate::config::TraceSettings;

/// Time limit for one export.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for exporting the last spans at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The target of spans for traces. Only these are exported: spans of libraries may contain secrets.
const TARGET: &str = "lockable::spans";

/// The exporter of spans, if a collector is configured.
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Starts the exporter and returns the tracing layer that feeds it.
    pub(super) fn start<S>(settings: &TraceSettings) -> Result<(Self, Option<impl Layer<S>>), TelemetryError>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok((Self(None), None)) };
        // TLS to the collector; another component may have installed the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::blocking::Client::builder().timeout(EXPORT_TIMEOUT).build();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client.map_err(unusable)?)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/')))
            .build()
            .map_err(unusable)?;
        let resource = Resource::builder()
            .with_service_name(env!("CARGO_PKG_NAME"))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.trace_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .with_sampler(sampler)
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(env!("CARGO_PKG_NAME")))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::DEBUG));
        Ok((Self(Some(provider)), Some(layer)))
    }

    /// Exports the remaining spans, for at most two seconds.
    pub fn finish(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

/// Formats an error with all its causes.
fn unusable(error: impl Into<anyhow::Error>) -> TelemetryError {
    TelemetryError::Traces(format!("{:#}", error.into()))
}
