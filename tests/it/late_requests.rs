//! A request that is carried out late undoes nothing that its holder confirmed after
//! it was sent.

use std::time::{Duration, Instant};

use crate::support::{Client, Pod, cluster::PROMPT, eventually, postgres::Postgres, proxy::Proxy, redis::RedisServer};

/// For how long it is watched that nothing is undone: longer than a command can be late.
const WATCHED: Duration = Duration::from_millis(1200);

async fn pods() -> (RedisServer, Postgres, Proxy, [Pod; 2], String) {
    let (redis, postgres) = (RedisServer::start(), Postgres::database().await);
    let proxy = Proxy::start(redis.port()).await;
    let start = async |url: &str| {
        let pod = Pod::builder().database(&postgres.url).env(PROMPT.0, PROMPT.1).env("LOCKABLE_REDIS_URL", url);
        pod.start().await
    };
    let pods = [start(&proxy.url()).await, start(&redis.url()).await];
    let token = pods[0].account("business").await.token;
    (redis, postgres, proxy, pods, token)
}

/// Asserts that ana holds the lock, and goes on to.
async fn assert_kept(client: &Client, name: &str) {
    let since = Instant::now();
    while since.elapsed() < WATCHED {
        let other = client.get(&format!("/v1/acquire/{name}?owner=bob&lease=30s")).await;
        assert_eq!(other.json["reason"], "held", "{}", other.text);
        assert!(other.json["retry_after_ms"].as_u64() > Some(10_000), "a late heartbeat shortens it: {}", other.text);
    }
    let renewed = client.get(&format!("/v1/heartbeat/{name}?owner=ana&lease=30s")).await;
    assert_eq!(renewed.json["response"], true, "{}", renewed.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_connection_was_cut_undoes_nothing_later() {
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
        // The token is known there and paid for, and Redis knows the scripts.
        for warm in ["acquire", "heartbeat", "release"] {
            eventually(async || cut.get(&format!("/v1/{warm}/probe?owner=probe")).await.status == 200).await;
        }
        proxy.late(Duration::from_millis(300));
        // 503 while it can still be carried out would be too early.
        let unanswered = cut.get(&late).await;
        let again = acquire(name).await;
        proxy.pass();
        unanswered.assert_problem(503, "unavailable");
        assert_eq!(again.json["response"], true, "{name}: {}", again.text);
        assert_kept(&whole, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_a_server_finds_after_it_stood_still_undo_nothing() {
    let (_redis, _postgres, _proxy, mut pods, token) = pods().await;
    let [still, other] = [0, 1].map(|pod| pods[pod].client(&token));
    for (name, late) in
        [("released", "release/released?owner=ana"), ("shortened", "heartbeat/shortened?owner=ana&lease=1s")]
    {
        let acquire = format!("/v1/acquire/{name}?owner=ana&lease=30s");
        assert_eq!(other.get(&acquire).await.json["response"], true);
        // It has a connection, and knows the token.
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
