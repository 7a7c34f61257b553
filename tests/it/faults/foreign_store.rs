//! A server uses a different Redis than the others, or Redis's clock jumps.

use std::time::{Duration, Instant};

use super::{RECOVERY, WorkloadConfig, clients, cluster, durable, run_with_fault};
use crate::support::{
    Cluster, Pod, eventually,
    postgres::Postgres,
    proxy::Proxy,
    redis::{FakeClock, RedisServer},
};

/// Longer than every lease, so that each lease expires by the changed clock.
const JUMP_US: u64 = 40_000_000;

/// Starts one more server, which reaches its Redis only after its start and so cannot detect at
/// start that the store is foreign. Asserts that it grants nothing.
async fn assert_foreign_server_is_harmless(name: &str, cluster: &Cluster, port: u16, number: &str, prefix: &str) {
    let proxy = Proxy::start(port).await;
    proxy.refuse();
    let foreign = Pod::builder()
        .env("LOCKABLE_REDIS_URL", &format!("{}/{number}", proxy.url()))
        .database(&cluster.postgres.url)
        .env("LOCKABLE_JOURNAL_ABOVE", "1s")
        .env("LOCKABLE_REDIS_PREFIX", prefix)
        .start()
        .await;
    let mut clients = clients(&cluster.pods).await;
    clients.push(clients[0].with_origin(&foreign.origin()));
    let outcome = run_with_fault(name, &clients, WorkloadConfig::default(), async || {
        proxy.pass();
        eventually(async || foreign.metric("lockable_store_foreign").await == Some(1.0)).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    })
    .await;
    assert!(outcome.tally.unavailable > 0 && outcome.resumed_after < Duration::from_secs(1), "{:?}", outcome.tally);
    let long = clients[0].get("/v1/acquire/long?lease=1h").await;
    assert_eq!(long.json["response"], true, "{}", long.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_another_redis_starts() {
    let (cluster, other) = (cluster().await, RedisServer::start());
    assert_foreign_server_is_harmless("another Redis", &cluster, other.port(), "0", "lockable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_another_database_number_starts() {
    let cluster = cluster().await;
    assert_foreign_server_is_harmless("another number", &cluster, cluster.redis.port(), "1", "lockable").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_another_prefix_starts() {
    let cluster = cluster().await;
    assert_foreign_server_is_harmless("another prefix", &cluster, cluster.redis.port(), "0", "another").await;
}

/// Pauses Redis, moves its clock, and resumes it; asserts that a recovery begins.
async fn assert_clock_jump_recovers(name: &str, jump: impl FnOnce(&FakeClock)) {
    let (redis, clock) = durable().start_with_clock(0);
    let postgres = Postgres::database().await;
    let start = async || {
        let pod = Pod::builder().redis(&redis).database(&postgres.url);
        pod.env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await
    };
    let pods = [start().await, start().await];
    let clients = clients(&pods).await;
    let mut since = Instant::now();
    let outcome = run_with_fault(name, &clients, WorkloadConfig::default(), async || {
        since = Instant::now();
        redis.pause();
        tokio::time::sleep(Duration::from_secs(2)).await;
        jump(&clock);
        redis.resume();
        eventually(async || clients[0].get("/v1/acquire/any?lease=1s").await.json["reason"] == "recovering").await;
    })
    .await;
    assert!(outcome.tally.recovering > 0 && since.elapsed() >= RECOVERY, "{:?}", outcome.tally);
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jumps_ahead_while_redis_is_paused() {
    assert_clock_jump_recovers("jump ahead", |clock| clock.advance(JUMP_US)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jumps_back_while_redis_is_paused() {
    assert_clock_jump_recovers("jump back", |clock| clock.set_back(JUMP_US)).await;
}
