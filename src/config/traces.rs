use url::Url;

/// Settings of the trace export.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceSettings {
    /// URL of an OpenTelemetry collector that accepts OTLP over HTTP, such as
    /// `http://localhost:4318`. Unset: no traces
    #[arg(long, env = "LOCKABLE_OTLP_ENDPOINT", value_parser = endpoint, value_name = "URL")]
    pub otlp_endpoint: Option<Url>,

    /// Fraction of requests to trace, from 0 to 1. Requests with a sampled traceparent header are
    /// always traced
    #[arg(long, env = "LOCKABLE_TRACE_RATIO", default_value_t = 0.01, value_parser = ratio, value_name = "RATIO")]
    pub trace_ratio: f64,
}

/// Parses the collector's URL. Rejects a URL with a secret, such as a token: it belongs in
/// `OTEL_EXPORTER_OTLP_HEADERS`.
fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("expected a URL that begins with http:// or https://".to_owned());
    }
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    // The text after a `#` or `/` may be the rest of a password, and the text before it is not a
    // host then.
    if !is_plain || url.fragment().is_some() || text.contains('@') {
        return Err("secrets are not allowed in this URL; set them in OTEL_EXPORTER_OTLP_HEADERS".to_owned());
    }
    Ok(url)
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}
