//! Redis away, back, full, or without its scripts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use crate::support::{Answer, Client, Cluster, Pod, cluster::PROMPT, eventually, redis::RedisServer};

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_answer_is_503_at_once_and_service_comes_back_by_itself() {
    let mut cluster = Cluster::start_with(1, RedisServer::builder(), &[("LOCKABLE_JOURNAL_ABOVE", "1s"), PROMPT]).await;
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
    // It is empty, and servers make sure that nobody works with the data that it had.
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    // What Redis held may be forgotten; by then it has lapsed.
    eventually(async || client.get("/v1/acquire/during").await.json["response"] == true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_redis_runs_too_late_leaves_no_lock_behind() {
    let cluster = Cluster::start_with(1, RedisServer::builder(), &[PROMPT]).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    client.get("/v1/acquire/warm-up").await;

    cluster.redis.pause();
    let asked = Instant::now();
    client.get("/v1/acquire/late?owner=a&lease=1h").await.assert_problem(503, "unavailable");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    // Whoever asked is gone, and its deadline passed, before Redis goes on.
    while asked.elapsed() < Duration::from_millis(1500) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.redis.resume();

    eventually(async || client.get("/v1/heartbeat/warm-up").await.json["response"] == true).await;
    let acquired = client.get("/v1/acquire/late?owner=b").await;
    assert_eq!(acquired.json["response"], true, "{}", acquired.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_redis_forgot_are_loaded_again_without_an_error() {
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
async fn with_its_memory_full_redis_still_takes_heartbeats_and_releases() {
    let cluster = Cluster::start(1).await;
    // A small plan, whose requests are counted in Redis, in the same script.
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
async fn a_redis_that_evicts_keys_is_refused_in_one_line() {
    let redis = RedisServer::builder().args(&["--maxmemory-policy", "volatile-lru"]).start();
    let (code, stderr) = Pod::builder().redis(&redis).expect_refusal().await;
    assert_eq!(code, Some(1));
    let complaint = stderr.lines().last().unwrap_or_default();
    assert!(complaint.contains("maxmemory-policy") && complaint.contains("noeviction"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_too_few_replicas_have_is_taken_back() {
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
async fn a_grant_whose_client_has_gone_is_taken_back() {
    use tokio::io::AsyncWriteExt;

    let cluster = Cluster::start_with(1, RedisServer::builder(), &[PROMPT]).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    client.get("/v1/acquire/warm-up").await;

    cluster.redis.pause();
    let mut impatient = tokio::net::TcpStream::connect(cluster.pods[0].authority("127.0.0.1")).await.unwrap();
    let authorization = client.authorization();
    let request =
        format!("GET /v1/acquire/gone?lease=1h HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n\r\n");
    impatient.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(impatient);
    cluster.redis.resume();

    eventually(async || client.get("/v1/acquire/gone").await.json["response"] == true).await;
}

/// A server that logs everything, who holds such a lock there, and the request of
/// one who waits for it.
async fn waited_for(name: &str) -> (Cluster, Client, JoinHandle<Answer>) {
    let cluster = Cluster::start_with(1, RedisServer::builder(), &[("LOCKABLE_LOG", "info,lockable=debug")]).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    assert_eq!(client.get(&format!("/v1/acquire/{name}?owner=a&lease=1h")).await.json["response"], true);
    let (waiting, path) = (client.clone(), format!("/v1/acquire/{name}?owner=b&wait=50s"));
    let wait = tokio::spawn(async move { waiting.get(&path).await });
    eventually(async || client.get(&format!("/v1/locks/{name}")).await.json["waiting"] == 1).await;
    (cluster, client, wait)
}

/// Who waits asks now and then, and is not told of a question without an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_outlives_an_outage() {
    let (cluster, client, wait) = waited_for("outlived").await;
    cluster.redis.pause();
    eventually(async || cluster.pods[0].log().contains("a wait goes on without an answer")).await;
    cluster.redis.resume();
    eventually(async || client.get("/v1/release/outlived?owner=a").await.json["response"] == true).await;
    assert_eq!(wait.await.unwrap().json["response"], true);
}

/// Redis refuses every command at once, so that nothing but a pause keeps the
/// server from asking all the time.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_cannot_be_taken_back_is_tried_again_after_a_pause() {
    let (cluster, _, wait) = waited_for("refused").await;
    cluster.redis.cli(&["ACL", "SETUSER", "default", "-@scripting"]);
    wait.abort();
    let tries = || times_of(&cluster.pods[0].log(), "an attempt could not be withdrawn yet");
    eventually(async || tries().len() >= 4).await;
    let passed = tries()[3].duration_since(tries()[0]);
    // Pauses of 50, 100 and 200 milliseconds.
    assert!(passed.as_millis() >= 350, "four times within {passed:?}");
}

/// When this was logged.
fn times_of(log: &str, message: &str) -> Vec<jiff::Timestamp> {
    let lines = log.lines().filter(|line| line.contains(message));
    let events = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.map(|event| event["timestamp"].as_str().unwrap().parse().unwrap()).collect()
}
