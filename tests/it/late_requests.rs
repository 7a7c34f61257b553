//! A request that runs late does not undo anything that its holder confirmed after it was sent.

use std::time::{Duration, Instant};

use crate::support::{
    Client, Pod, cluster::DEFAULT_REDIS_TIMEOUT, eventually, postgres::Postgres, proxy::Proxy, redis::RedisServer,
};

/// The observation time: longer than a command can be late.
const OBSERVATION_TIME: Duration = Duration::from_millis(1200);

async fn pods() -> (RedisServer, Postgres, Proxy, [Pod; 2], String) {
    let (redis, postgres) = (RedisServer::start(), Postgres::database().await);
    let proxy = Proxy::start(redis.port()).await;
    let start = async |url: &str| {
        let pod = Pod::builder()
            .database(&postgres.url)
            .env(DEFAULT_REDIS_TIMEOUT.0, DEFAULT_REDIS_TIMEOUT.1)
            .env("LOCKABLE_REDIS_URL", url);
        pod.start().await
    };
    let pods = [start(&proxy.url()).await, start(&redis.url()).await];
    let token = pods[0].account("business").await.token;
    (redis, postgres, proxy, pods, token)
}

/// Asserts that ana holds the lock, and keeps it during the observation time.
async fn assert_kept(client: &Client, name: &str) {
    let since = Instant::now();
    while since.elapsed() < OBSERVATION_TIME {
        let other = client.get(&format!("/v1/acquire/{name}?owner=bob&lease=30s")).await;
        assert_eq!(other.json["reason"], "held", "{}", other.text);
        assert!(
            other.json["retry_after_ms"].as_u64() > Some(10_000),
            "a late heartbeat shortened the lease: {}",
            other.text
        );
    }
    let renewed = client.get(&format!("/v1/heartbeat/{name}?owner=ana&lease=30s")).await;
    assert_eq!(renewed.json["response"], true, "{}", renewed.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn command_of_a_cut_connection_changes_nothing_later() {
    let (_redis, _postgres, proxy, pods, token) = pods().await;
    let [cut, whole] = [0, 1].map(|pod| pods[pod].client(&token));
    let acquire = async |name: &str| whole.get(&format!("/v1/acquire/{name}?owner=ana&lease=30s")).await;
    for (name, late) in [
        ("released", "release/released?owner=ana"),
        ("fenced", "release/fenced?owner=ana&fencing_token="),
        ("shortened", "heartbeat/shortened?owner=ana&lease=1s"),
    ] {
        let fence = acquire(name).await.json["fencing_token"].to_string();
        let late = format!("/v1/{late}{}", if late.ends_with('=') { &fence } else { "" });
        // Warm up: the server caches the token and draws credits, and Redis caches the scripts.
        for warm in ["acquire", "heartbeat", "release"] {
            eventually(async || cut.get(&format!("/v1/{warm}/probe?owner=probe")).await.status == 200).await;
        }
        proxy.deliver_late(Duration::from_millis(300));
        // The server must not return 503 while the command can still run.
        let unanswered = cut.get(&late).await;
        let again = acquire(name).await;
        proxy.pass();
        unanswered.assert_problem(503, "unavailable");
        assert_eq!(again.json["response"], true, "{name}: {}", again.text);
        assert_kept(&whole, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_read_after_a_pause_change_nothing() {
    let (_redis, _postgres, _proxy, mut pods, token) = pods().await;
    let [still, other] = [0, 1].map(|pod| pods[pod].client(&token));
    for (name, late) in
        [("released", "release/released?owner=ana"), ("shortened", "heartbeat/shortened?owner=ana&lease=1s")]
    {
        let acquire = format!("/v1/acquire/{name}?owner=ana&lease=30s");
        assert_eq!(other.get(&acquire).await.json["response"], true);
        // Warm up the connection and the token cache.
        assert_eq!(still.get(&acquire).await.json["response"], true);
        pods[0].pause();
        let late = tokio::spawn({
            let (still, late) = (still.clone(), format!("/v1/{late}"));
            async move { still.get(&late).await }
        });
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(other.get(&acquire).await.json["response"], true);
        pods[0].resume();
        late.await.unwrap().assert_problem(503, "unavailable");
        assert_kept(&other, name).await;
    }
}
