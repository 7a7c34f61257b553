//! Redis is lost, back, full, or without its scripts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use crate::support::{Client, Cluster, Pod, Response, cluster::DEFAULT_REDIS_TIMEOUT, eventually, redis::RedisServer};

#[tokio::test(flavor = "multi_thread")]
async fn lost_redis_returns_503_at_once_and_service_resumes() {
    let mut cluster =
        Cluster::start_with(1, RedisServer::builder(), &[("LOCKABLE_JOURNAL_ABOVE", "1s"), DEFAULT_REDIS_TIMEOUT])
            .await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    assert_eq!(client.get("/v1/acquire/before").await.json["response"], true);

    cluster.redis.stop();
    for operation in ["acquire", "heartbeat", "release"] {
        let asked = Instant::now();
        let answer = client.get(&format!("/v1/{operation}/during")).await;
        answer.assert_problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(asked.elapsed() < Duration::from_secs(1), "{operation}: {:?}", asked.elapsed());
    }

    cluster.redis.restart();
    let back = Instant::now();
    eventually(async || client.get("/v1/heartbeat/during").await.status == 200).await;
    // Redis is empty, and the servers first make sure that no other server works with the former
    // data.
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    // A recovery waits until all grants that Redis may have lost have expired.
    eventually(async || client.get("/v1/acquire/during").await.json["response"] == true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_run_after_its_deadline_grants_nothing() {
    let cluster = Cluster::start_with(1, RedisServer::builder(), &[DEFAULT_REDIS_TIMEOUT]).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    client.get("/v1/acquire/warm-up").await;

    cluster.redis.pause();
    let asked = Instant::now();
    client.get("/v1/acquire/late?owner=a&lease=1h").await.assert_problem(503, "unavailable");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    // The request has failed and its deadline has passed before Redis resumes.
    while asked.elapsed() < Duration::from_millis(1500) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.redis.resume();

    eventually(async || client.get("/v1/heartbeat/warm-up").await.json["response"] == true).await;
    let acquired = client.get("/v1/acquire/late?owner=b").await;
    assert_eq!(acquired.json["response"], true, "{}", acquired.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_scripts_are_loaded_again_without_errors() {
    let cluster = Cluster::start(2).await;
    cluster.operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let token = cluster.account("business").await.token;
    let stop = Arc::new(AtomicBool::new(false));
    let load = (0..16).map(|worker| {
        let client = cluster.pods[worker % 2].client(&token);
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                for operation in ["acquire", "heartbeat", "release"] {
                    let answer = client.get(&format!("/v1/{operation}/flush-{worker}")).await;
                    assert_eq!((answer.status, &answer.json["response"]), (200, &true.into()), "{}", answer.text);
                }
                rounds += 1;
            }
            rounds
        })
    });
    let load: Vec<_> = load.collect();
    for _ in 0..200 {
        cluster.redis.cli(&["SCRIPT", "FLUSH"]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        assert!(worker.await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_redis_still_accepts_heartbeats_and_releases() {
    let cluster = Cluster::start(1).await;
    // The rate of a small plan is counted in Redis by the script of the lock.
    let client = cluster.pods[0].client(&cluster.account("hobbyist").await.token);
    assert_eq!(client.get("/v1/acquire/full").await.json["response"], true);

    cluster.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    client.get("/v1/acquire/other").await.assert_problem(503, "unavailable");
    assert_eq!(client.get("/v1/heartbeat/full").await.json["response"], true);
    assert_eq!(client.get("/v1/release/full").await.json["response"], true);

    cluster.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(client.get("/v1/acquire/other").await.json["response"], true, "the 503 left no lock behind");
}

#[tokio::test]
async fn redis_with_eviction_policy_is_rejected_at_start() {
    let redis = RedisServer::builder().args(&["--maxmemory-policy", "volatile-lru"]).start();
    let (code, stderr) = Pod::builder().redis(&redis).expect_refusal().await;
    assert_eq!(code, Some(1));
    let complaint = stderr.lines().last().unwrap_or_default();
    assert!(complaint.contains("maxmemory-policy") && complaint.contains("noeviction"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grant_acknowledged_by_too_few_replicas_is_reverted() {
    let cluster = Cluster::start(1).await;
    let token = cluster.account("business").await.token;
    let careful = Pod::builder()
        .redis(&cluster.redis)
        .database(&cluster.postgres.url)
        .env("LOCKABLE_REDIS_WAIT_REPLICAS", "1")
        .start()
        .await;
    let client = cluster.pods[0].client(&token);
    for (name, wait) in [("replicated", ""), ("waited-for", "&wait=10s")] {
        let refused = careful.client(&token).get(&format!("/v1/acquire/{name}?lease=1h{wait}")).await;
        refused.assert_problem(503, "unavailable");
        eventually(async || client.get(&format!("/v1/acquire/{name}")).await.json["response"] == true).await;
    }

    let replica = RedisServer::builder().replica_of(&cluster.redis).start();
    eventually(async || careful.client(&token).get("/v1/acquire/with-replica?owner=a").await.status == 200).await;
    drop(replica);
}

#[tokio::test(flavor = "multi_thread")]
async fn grant_to_disconnected_client_is_reverted() {
    use tokio::io::AsyncWriteExt;

    let cluster = Cluster::start_with(1, RedisServer::builder(), &[DEFAULT_REDIS_TIMEOUT]).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    client.get("/v1/acquire/warm-up").await;

    let authorization = client.authorization();
    for (name, wait) in [("gone", ""), ("gone-waiting", "&wait=50s")] {
        cluster.redis.pause();
        let mut impatient = tokio::net::TcpStream::connect(cluster.pods[0].authority("127.0.0.1")).await.unwrap();
        let request = format!(
            "GET /v1/acquire/{name}?lease=1h{wait} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n\r\n"
        );
        impatient.write_all(request.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(impatient);
        cluster.redis.resume();
        eventually(async || client.get(&format!("/v1/acquire/{name}")).await.json["response"] == true).await;
    }
}

/// Starts a server with debug logs. Returns it, the client that holds this lock, and a queued
/// request for the lock.
async fn start_waiter(name: &str) -> (Cluster, Client, JoinHandle<Response>) {
    let cluster = Cluster::start_with(1, RedisServer::builder(), &[("LOCKABLE_LOG", "info,lockable=debug")]).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    assert_eq!(client.get(&format!("/v1/acquire/{name}?owner=a&lease=1h")).await.json["response"], true);
    let (waiting, path) = (client.clone(), format!("/v1/acquire/{name}?owner=b&wait=50s"));
    let wait = tokio::spawn(async move { waiting.get(&path).await });
    eventually(async || client.get(&format!("/v1/locks/{name}")).await.json["waiting"] == 1).await;
    (cluster, client, wait)
}

/// A queued request polls Redis and survives polls without a reply.
#[tokio::test(flavor = "multi_thread")]
async fn wait_survives_a_redis_outage() {
    let (cluster, client, wait) = start_waiter("outlived").await;
    cluster.redis.pause();
    eventually(async || cluster.pods[0].log().contains("a waiting request got no answer and continues")).await;
    cluster.redis.resume();
    eventually(async || client.get("/v1/release/outlived?owner=a").await.json["response"] == true).await;
    assert_eq!(wait.await.unwrap().json["response"], true);
}

/// Redis rejects every command at once, so that only the backoff limits the rate of retries.
#[tokio::test(flavor = "multi_thread")]
async fn failed_revert_is_retried_with_backoff() {
    let (cluster, _, wait) = start_waiter("refused").await;
    cluster.redis.cli(&["ACL", "SETUSER", "default", "-@scripting"]);
    wait.abort();
    let tries = || times_of(&cluster.pods[0].log(), "cannot revert an unanswered acquire yet");
    eventually(async || tries().len() >= 4).await;
    let passed = tries()[3].duration_since(tries()[0]);
    // Backoff of 50, 100 and 200 milliseconds.
    assert!(passed.as_millis() >= 350, "four attempts within {passed:?}");
}

/// Returns the times at which this message was logged.
fn times_of(log: &str, message: &str) -> Vec<jiff::Timestamp> {
    let lines = log.lines().filter(|line| line.contains(message));
    let events = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.map(|event| event["timestamp"].as_str().unwrap().parse().unwrap()).collect()
}
