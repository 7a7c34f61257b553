//! Redis is another one, or has another time.

use std::time::{Duration, Instant};

use super::{RECOVERY, Wanted, clients, cluster, durable, tried};
use crate::support::{
    Cluster, Pod, eventually,
    postgres::Postgres,
    proxy::Proxy,
    redis::{FakeClock, RedisServer},
};

/// Longer than the leases, so that each of them lapses by it.
const LEAP_US: u64 = 40_000_000;

/// Has clients of a server, too, that reaches its Redis only after it has started: it
/// cannot know before that it is not that of the others.
async fn a_stray_starts(name: &str, cluster: &Cluster, port: u16, number: &str, prefix: &str) {
    let proxy = Proxy::start(port).await;
    proxy.refuse();
    let stray = Pod::builder()
        .env("LOCKABLE_REDIS_URL", &format!("{}/{number}", proxy.url()))
        .database(&cluster.postgres.url)
        .env("LOCKABLE_JOURNAL_ABOVE", "1s")
        .env("LOCKABLE_REDIS_PREFIX", prefix)
        .start()
        .await;
    let mut clients = clients(&cluster.pods).await;
    clients.push(clients[0].at(&stray.origin()));
    let trial = tried(name, &clients, Wanted::default(), async || {
        proxy.pass();
        eventually(async || stray.metric("lockable_store_foreign").await == Some(1.0)).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    })
    .await;
    assert!(trial.tally.unavailable > 0 && trial.back_after < Duration::from_secs(1), "{:?}", trial.tally);
    let long = clients[0].get("/v1/acquire/long?lease=1h").await;
    assert_eq!(long.json["response"], true, "{}", long.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_redis_is_started() {
    let (cluster, other) = (cluster().await, RedisServer::start());
    a_stray_starts("another Redis", &cluster, other.port(), "0", "lockable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_database_number_is_started() {
    let cluster = cluster().await;
    a_stray_starts("another number", &cluster, cluster.redis.port(), "1", "lockable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_prefix_is_started() {
    let cluster = cluster().await;
    a_stray_starts("another prefix", &cluster, cluster.redis.port(), "0", "another").await;
}

/// Redis stands still, and when it goes on its clock has leapt.
async fn leaps(name: &str, leap: impl FnOnce(&FakeClock)) {
    let (redis, clock) = durable().start_with_clock(0);
    let postgres = Postgres::database().await;
    let start = async || {
        let pod = Pod::builder().redis(&redis).database(&postgres.url);
        pod.env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await
    };
    let pods = [start().await, start().await];
    let clients = clients(&pods).await;
    let mut since = Instant::now();
    let trial = tried(name, &clients, Wanted::default(), async || {
        since = Instant::now();
        redis.pause();
        tokio::time::sleep(Duration::from_secs(2)).await;
        leap(&clock);
        redis.resume();
        eventually(async || clients[0].get("/v1/acquire/any?lease=1s").await.json["reason"] == "recovering").await;
    })
    .await;
    assert!(trial.tally.recovering > 0 && since.elapsed() >= RECOVERY, "{:?}", trial.tally);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_leaps_ahead_while_redis_stands_still() {
    leaps("leap ahead", |clock| clock.advance(LEAP_US)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_leaps_back_while_redis_stands_still() {
    leaps("leap back", |clock| clock.set_back(LEAP_US)).await;
}
