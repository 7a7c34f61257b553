use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanContext, TraceContextExt},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Span, debug_span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The fields of W3C Trace Context, level 2, in requests and responses.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");
static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// The trace of one request.
pub(super) struct Trace {
    /// The span of the whole request.
    pub span: Span,
    /// The client's trace id, or that of a sampled span.
    id: Option<String>,
    response: Option<HeaderValue>,
}

impl Trace {
    pub fn begin(method: &str, route: &str, headers: &HeaderMap) -> Self {
        let parent = headers
            .contains_key(&TRACEPARENT)
            .then(|| PROPAGATOR.extract_with_context(&Context::new(), &HeaderExtractor(headers)));
        let span = debug_span!(
            target: "lockable::spans",
            "request",
            otel.name = format!("{method} {route}"),
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method,
            http.route = route,
            http.response.status_code = Empty,
        );
        let mut known = parent.as_ref().map(span_context).filter(SpanContext::is_valid);
        let mut response = None;
        if !span.is_disabled() {
            if let Some(parent) = parent {
                // Fails only for a span that has started or is disabled.
                let _ = span.set_parent(parent);
            }
            let own = span_context(&span.context());
            if own.is_valid() {
                let (trace, span, flags) = (own.trace_id(), own.span_id(), own.trace_flags());
                response = HeaderValue::try_from(format!("00-{trace}-{span}-{flags:02x}")).ok();
            }
            known = known.or_else(|| own.is_sampled().then_some(own));
        }
        Self { span, id: known.map(|context| context.trace_id().to_string()), response }
    }

    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Adds the trace to the response, and the status to the trace.
    pub fn finish(self, status: StatusCode, headers: &mut HeaderMap) {
        self.span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            self.span.record("otel.status_code", "ERROR");
        }
        if let Some(response) = self.response {
            headers.insert(TRACERESPONSE.clone(), response);
        }
    }
}

fn span_context(context: &Context) -> SpanContext {
    context.span().span_context().clone()
}

struct HeaderExtractor<'request>(&'request HeaderMap);

impl Extractor for HeaderExtractor<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
