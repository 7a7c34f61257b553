//! Health endpoints, metrics, and how a server stops.

use std::{process::Stdio, time::Duration};

use serde_json::json;
use tokio::{io::AsyncWriteExt as _, time::Instant};

use crate::support::{Pod, eventually, pod::lockable, redis::RedisServer};

#[tokio::test(flavor = "multi_thread")]
async fn readiness_reports_the_state_of_each_dependency() {
    let mut redis = RedisServer::start();
    let pod = Pod::builder().redis(&redis).start().await;
    let admin = pod.admin();
    assert_eq!((admin.get("/livez").await.status, admin.get("/livez").await.text.as_str()), (200, "alive\n"));
    let ready = json!({ "ready": true, "leaving": false, "locks": "ok", "accounts": "ok" });
    eventually(async || admin.get("/readyz").await.json == ready).await;
    // The API listener serves no admin route, and the admin listener no API route.
    assert_eq!(pod.client_without_token().get("/readyz").await.status, 404);
    assert_eq!(pod.client_without_token().get("/metrics").await.status, 404);
    assert_eq!(admin.get("/v1/account").await.status, 404);

    let check = ["healthcheck", "--admin-listen", &pod.admin_address()];
    let healthy = lockable(&check).output().await.unwrap();
    assert_eq!(healthy.status.code(), Some(0));
    redis.stop();
    eventually(async || admin.get("/readyz").await.status == 503).await;
    assert_eq!(admin.get("/readyz").await.json["locks"], "away");
    assert_eq!(admin.get("/livez").await.status, 200);
    let unready = lockable(&check).output().await.unwrap();
    assert_eq!(unready.status.code(), Some(1));
    assert!(String::from_utf8(unready.stdout).unwrap().contains("\"locks\":\"away\""));
    let alive = lockable(&[&check[..], &["--live"]].concat()).output().await.unwrap();
    assert_eq!(alive.status.code(), Some(0));
    redis.restart();
    eventually(async || admin.get("/readyz").await.json["ready"] == true).await;

    let unreachable = lockable(&["healthcheck", "--admin-listen", "127.0.0.1:1"]).output().await.unwrap();
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(!unreachable.stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_server_reports_not_ready_and_serves_until_the_shutdown_delay_ends() {
    let mut pod = Pod::builder().env("LOCKABLE_SHUTDOWN_DELAY", "2s").start().await;
    let (admin, client) = (pod.admin(), pod.client(&pod.first_token()));
    eventually(async || admin.get("/readyz").await.status == 200).await;
    pod.terminate();
    let asked = Instant::now();
    eventually(async || admin.get("/readyz").await.status == 503).await;
    let readiness = admin.get("/readyz").await.json;
    assert_eq!((&readiness["ready"], &readiness["leaving"]), (&false.into(), &true.into()));
    assert_eq!(client.get("/v1/acquire/late").await.json["response"], true);
    assert_eq!(pod.stop().await, Some(0));
    assert!(asked.elapsed() >= Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_server_logs_no_warnings() {
    let redis = RedisServer::start();
    let mut pod = Pod::builder().redis(&redis).env("LOCKABLE_WORKERS", "4").start().await;
    assert_eq!(pod.client(&pod.first_token()).get("/v1/acquire/last").await.json["response"], true);
    assert_eq!(pod.stop().await, Some(0));
    eventually(async || pod.log().contains("\"stopped\"")).await;
    let log = pod.log();
    let (_, leaving) = log.split_once("\"draining\"").unwrap();
    assert!(!leaving.contains("WARN") && !leaving.contains("ERROR"), "{leaving}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_is_counted_by_its_observer() {
    let redis = RedisServer::start();
    let pod = Pod::builder().redis(&redis).start().await;
    let client = pod.client(&pod.account("business").await.token);
    let expiries = async || {
        let by = async |who: &str| pod.metric(&format!("lockable_expired_leases_total{{noticed_by=\"{who}\"}}")).await;
        (by("queue").await.unwrap_or_default(), by("holder").await.unwrap_or_default())
    };
    let answer = async |path: &str| client.get(path).await.json["response"].clone();
    assert_eq!(answer("/v1/acquire/lapses?owner=a&lease=1h").await, true);
    let waiting = client.clone();
    let waiter = tokio::spawn(async move { waiting.get("/v1/acquire/lapses?owner=b&wait=20s").await });
    // The queue was polled at least once.
    let polls = "lockable_store_duration_seconds_count{script=\"poll_queue\"}";
    eventually(async || pod.metric(polls).await.is_some()).await;
    assert_eq!(answer("/v1/heartbeat/lapses?owner=a&lease=2s").await, true);
    assert_eq!(expiries().await, (0.0, 0.0));
    assert_eq!(waiter.await.unwrap().json["response"], true);
    eventually(async || expiries().await == (1.0, 0.0)).await;
    assert_eq!(answer("/v1/heartbeat/lapses?owner=a").await, false);
    assert_eq!(expiries().await, (1.0, 1.0));
    assert_eq!(answer("/v1/release/lapses?owner=b").await, true);
    assert_eq!(expiries().await, (1.0, 1.0), "a release is not an expiry");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_requests_without_names_or_tokens() {
    let redis = RedisServer::start();
    let pod = Pod::builder().redis(&redis).start().await;
    let token = pod.account("business").await.token;
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/secret-name?owner=secret-owner").await.json["response"], true);
    assert_eq!(client.get("/v1/acquire/secret-name").await.json["response"], false);
    let waiter = {
        let client = client.clone();
        tokio::spawn(async move { client.get("/v1/acquire/secret-name?wait=20s").await })
    };
    let value = async |series: &str| pod.metric(series).await;
    eventually(async || value("lockable_waiters").await == Some(1.0)).await;
    assert_eq!(client.get("/v1/release/secret-name?owner=secret-owner").await.json["response"], true);
    assert_eq!(waiter.await.unwrap().json["response"], true);
    assert_eq!(client.request("BREW", "/v1/acquire/x", &[]).await.status, 405);
    assert_eq!(client.get("/nowhere/secret-path").await.status, 404);

    assert_eq!(value("lockable_waiters").await, Some(0.0));
    assert_eq!(value("lockable_handover_duration_seconds_count").await, Some(1.0));
    let acquired = r#"lockable_lock_requests_total{operation="acquire",outcome="granted"}"#;
    assert_eq!(value(acquired).await, Some(1.0));
    assert_eq!(value(r#"lockable_lock_requests_total{operation="acquire",outcome="held"}"#).await, Some(1.0));
    let requests = r#"lockable_http_requests_total{method="GET",route="/v1/acquire/{*name}",status="200"}"#;
    assert_eq!(value(requests).await, Some(3.0));
    // The client opens a new connection each time, so that the server reads its token cache instead
    // of the cache of the connection.
    let by_memory = r#"lockable_token_lookups_total{source="memory"}"#;
    eventually(async || {
        pod.client(&token).get("/v1/account").await;
        value(by_memory).await.is_some()
    })
    .await;
    for series in [
        r#"lockable_http_requests_total{method="other",route="/v1/acquire/{*name}",status="405"}"#,
        r#"lockable_http_requests_total{method="GET",route="-",status="404"}"#,
        r#"lockable_store_duration_seconds_count{script="acquire"}"#,
        r#"lockable_token_lookups_total{source="database"}"#,
        "lockable_connections",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(value(series).await.is_some_and(|value| value >= 1.0), "{series}: {:?}", value(series).await);
    }

    let text = pod.admin().get("/metrics").await.text;
    assert!(!text.contains("secret") && !text.contains(&token), "{text}");
    // The metrics follow the Prometheus naming rules.
    let mut promtool = tokio::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    let checked = promtool.wait_with_output().await.unwrap();
    let output = [checked.stdout, checked.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(checked.status.success() && output.is_empty(), "{output}");
}
