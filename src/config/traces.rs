use url::Url;

/// Where traces go, and which requests have one.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceSettings {
    /// The OpenTelemetry collector that takes traces as OTLP over HTTP, such as `http://localhost:4318`; none unless set
    #[arg(long, env = "LOCKABLE_OTLP_ENDPOINT", value_parser = endpoint, value_name = "URL")]
    pub otlp_endpoint: Option<Url>,

    /// Which part of the requests to trace, from 0 to 1; those whose traceparent says so are traced, too
    #[arg(long, env = "LOCKABLE_TRACE_RATIO", default_value_t = 0.01, value_parser = ratio, value_name = "RATIO")]
    pub trace_ratio: f64,
}

/// Reads the address of a collector. What a collector must be told besides, such
/// as a token, has a variable of its own, and never stands here.
fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("it begins with http:// or https://".to_owned());
    }
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    // Behind a `#` or `/` there may be the rest of a password, and what stands before is no host then.
    if !is_plain || url.fragment().is_some() || text.contains('@') {
        return Err("secrets do not belong here; OTEL_EXPORTER_OTLP_HEADERS takes them".to_owned());
    }
    Ok(url)
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("it is a number from 0 to 1".to_owned()),
    }
}
