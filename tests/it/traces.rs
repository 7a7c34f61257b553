//! Tracing: trace context in requests, spans to a collector, and headers in responses.

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use serde_json::Value;

use crate::support::{Collector, Pod, eventually, postgres::Postgres, redis::RedisServer};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the log line of the last request to this route.
fn line(pod: &Pod, route: &str) -> Option<Value> {
    let log = pod.log();
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.rfind(|line| line["fields"]["route"] == route)
}

#[tokio::test]
async fn request_trace_includes_redis_and_database_spans() {
    let (redis, postgres, collector) = (RedisServer::start(), Postgres::database().await, Collector::start().await);
    let builder = Pod::builder().redis(&redis).database(&postgres.url).env("LOCKABLE_OTLP_ENDPOINT", &collector.url);
    let mut pod = builder.env("LOCKABLE_TRACE_RATIO", "0").start().await;
    let client = pod.client(&pod.account("business").await.token);

    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let answer = client.request("GET", "/v1/acquire/traced", &[("traceparent", &traceparent)]).await;
    assert_eq!(answer.json["response"], true);
    let response = answer.header("traceresponse").unwrap().to_owned();
    assert_eq!(client.get("/v1/release/traced").await.json["response"], true);
    eventually(async || line(&pod, "/v1/release/{*name}").is_some()).await;
    assert_eq!(line(&pod, "/v1/acquire/{*name}").unwrap()["fields"]["trace_id"], TRACE);
    assert_eq!(line(&pod, "/v1/release/{*name}").unwrap()["fields"]["trace_id"], Value::Null);

    // The server exports the remaining spans before it exits.
    assert_eq!(pod.stop().await, Some(0));
    let spans = collector.spans();
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "other requests are not traced: {spans:#?}");
    let request = spans.iter().find(|span| span.kind() == SpanKind::Server).unwrap();
    assert_eq!((&*request.name, hex(&request.parent_span_id)), ("GET /v1/acquire/{*name}", PARENT.to_owned()));
    assert_eq!(response, format!("00-{TRACE}-{}-01", hex(&request.span_id)));
    let beneath: Vec<_> = spans.iter().filter(|span| span.parent_span_id == request.span_id).collect();
    let names: Vec<_> = beneath.iter().map(|span| &*span.name).collect();
    assert!(names.contains(&"sql") && names.contains(&"redis"), "{names:?}");
    assert!(beneath.iter().all(|span| span.kind() == SpanKind::Client));
    let script = beneath.iter().find_map(|span| attribute(span, "db.operation.name").filter(|name| name == "acquire"));
    assert!(script.is_some(), "{beneath:#?}");
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue;
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn sampled_requests_are_traced_and_errors_are_marked() {
    let (mut redis, collector) = (RedisServer::start(), Collector::start().await);
    let postgres = Postgres::database().await;
    let builder = Pod::builder().redis(&redis).database(&postgres.url).env("LOCKABLE_OTLP_ENDPOINT", &collector.url);
    let mut pod = builder.env("LOCKABLE_TRACE_RATIO", "1").start().await;
    let client = pod.client(&pod.account("business").await.token);
    assert_eq!(client.get("/v1/acquire/a").await.status, 200);
    redis.stop();
    let failed = client.get("/v1/acquire/b").await;
    assert_eq!(failed.status, 503);
    let trace = failed.header("traceresponse").unwrap().split('-').nth(1).unwrap().to_owned();
    assert_eq!(pod.stop().await, Some(0));

    let spans = collector.spans();
    let requests: Vec<_> = spans.iter().filter(|span| span.kind() == SpanKind::Server).collect();
    assert_eq!(requests.len(), 2, "{requests:#?}");
    for request in requests {
        let is_marked = request.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
        assert_eq!(is_marked, hex(&request.trace_id) == trace, "{request:#?}");
    }
}

#[tokio::test]
async fn log_contains_the_trace_id_without_a_collector() {
    let pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    for (traceparent, logged) in [
        (format!("00-{TRACE}-{PARENT}-00"), Value::from(TRACE)),
        (format!("00-{TRACE}-{PARENT}"), Value::Null),
        ("00-00000000000000000000000000000000-0000000000000000-01".to_owned(), Value::Null),
        ("nonsense".to_owned(), Value::Null),
    ] {
        let answer = client.request("GET", "/v1/account", &[("traceparent", &traceparent)]).await;
        assert_eq!((answer.status, answer.header("traceresponse")), (200, None));
        let id = answer.header("x-request-id").unwrap().to_owned();
        let of_this = async || line(&pod, "/v1/account").filter(|line| line["fields"]["request_id"] == *id);
        eventually(async || of_this().await.is_some()).await;
        assert_eq!(of_this().await.unwrap()["fields"]["trace_id"], logged, "{traceparent}");
    }
}

#[tokio::test]
async fn absent_collector_does_not_affect_requests() {
    let builder = Pod::builder().env("LOCKABLE_OTLP_ENDPOINT", "http://127.0.0.1:1").env("LOCKABLE_TRACE_RATIO", "1");
    let mut pod = builder.start().await;
    let client = pod.client(&pod.first_token());
    assert_eq!(client.get("/v1/acquire/a").await.json["response"], true);
    assert_eq!(pod.stop().await, Some(0));
}
