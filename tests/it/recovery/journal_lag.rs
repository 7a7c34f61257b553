//! The journal of long leases: without its database, with a restored one, and with ends that it has
//! not recorded yet.

use std::time::Instant;

use super::{reason, wait_until_open};
use crate::support::{Cluster, Pod, eventually, postgres::Postgres, redis::RedisServer};

/// The journal cannot record ends for a while, the server with the unrecorded ends is killed, and
/// Redis restarts with all of its data.
#[tokio::test(flavor = "multi_thread")]
async fn ended_grants_are_not_restored_although_the_journal_missed_the_end() {
    let redis = RedisServer::builder().args(&["--appendonly", "yes"]);
    let mut cluster = Cluster::start_with(1, redis, &[("LOCKABLE_JOURNAL_ABOVE", "1s")]).await;
    let account = cluster.account("business").await;
    let boss = ["token", "create", "--account", &account.email, "--scope", "manage", "--label", "boss"];
    let boss = cluster.operator(&boss).await["token"].as_str().unwrap().to_owned();
    let [client, boss] = [&account.token, &boss].map(|token| cluster.pods[0].client(token));
    for name in ["released", "wanted", "broken", "kept"] {
        let granted = client.get(&format!("/v1/acquire/{name}?lease=1h&owner=ana")).await;
        assert_eq!(granted.json["response"], true, "{}", granted.text);
    }
    let waiting = client.clone();
    let waiter = tokio::spawn(async move { waiting.get("/v1/acquire/wanted?wait=50s&owner=bob&lease=1s").await });
    eventually(async || client.get("/v1/locks/wanted").await.json["waiting"] == 1).await;

    let journal_lock = cluster.postgres.lock_table("journal", "SHARE").await;
    for name in ["released", "wanted"] {
        assert_eq!(client.get(&format!("/v1/release/{name}?owner=ana")).await.json["response"], true);
    }
    assert_eq!(waiter.await.unwrap().json["response"], true);
    boss.request("DELETE", "/v1/locks/broken", &[]).await.assert_problem(503, "unavailable");
    let lost = client.get("/v1/heartbeat/broken?owner=ana").await;
    assert_eq!(lost.json["reason"], "not_held", "{}", lost.text);
    assert_eq!(reason(&client, "/v1/acquire/broken?owner=bob&lease=1s").await, "held", "the journal would restore it");
    // The server dies before it can record the ends.
    cluster.pods[0].kill();
    cluster.redis.restart();
    let pod = Pod::builder().redis(&cluster.redis).database(&cluster.postgres.url);
    cluster.pods[0] = pod.env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await;
    let client = cluster.pods[0].client(&account.token);
    wait_until_open(&client, Instant::now()).await;
    for name in ["released", "wanted"] {
        let granted = client.get(&format!("/v1/acquire/{name}?owner=bob&lease=1s")).await;
        assert_eq!(granted.json["response"], true, "{name}: {}", granted.text);
    }
    for name in ["kept", "broken"] {
        assert_eq!(reason(&client, &format!("/v1/acquire/{name}?owner=bob&lease=1s")).await, "held", "{name}");
    }
    journal_lock.end();
    eventually(async || client.get("/v1/acquire/broken?owner=bob&lease=1s").await.json["response"] == true).await;
    let ended = "SELECT count(*) FROM journal WHERE ended_at IS NOT NULL";
    eventually(async || cluster.postgres.query(ended).unwrap().trim() == "3").await;
    eventually(async || cluster.redis.cli(&["EXISTS", "lockable:1:{0}:ended:"]).trim() == "0").await;
}

/// The server that executed a release dies before the journal has recorded the end. Another server
/// refuses the repeated release, and Redis loses all data before a server has listed the end twice.
#[tokio::test(flavor = "multi_thread")]
async fn server_that_refuses_a_repeated_release_records_the_end() {
    let mut cluster = Cluster::start_with_short_recovery(2).await;
    let token = cluster.account("business").await.token;
    let [first, second] = [0, 1].map(|pod| cluster.pods[pod].client(&token));
    for name in ["ended", "kept"] {
        let granted = first.get(&format!("/v1/acquire/{name}?lease=1h&owner=ana")).await;
        assert_eq!(granted.json["response"], true, "{}", granted.text);
    }
    let journal_lock = cluster.postgres.lock_table("journal", "SHARE").await;
    assert_eq!(first.get("/v1/release/ended?owner=ana").await.json["response"], true);
    eventually(async || cluster.postgres.lock_waiters("INSERT INTO journal") > 0).await;
    cluster.pods[0].kill();
    let abort = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    cluster.postgres.query(abort).unwrap();
    eventually(async || cluster.postgres.lock_waiters("INSERT INTO journal") == 0).await;
    journal_lock.end();

    assert_eq!(reason(&second, "/v1/release/ended?owner=ana").await, "not_held");
    cluster.redis.cli(&["FLUSHALL"]);
    wait_until_open(&second, Instant::now()).await;
    assert_eq!(reason(&second, "/v1/acquire/kept?owner=bob&lease=1s").await, "held");
    eventually(async || second.get("/v1/acquire/ended?owner=bob&lease=1s").await.json["response"] == true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_short_leases_continue_and_long_leases_are_renewed_briefly() {
    let redis = RedisServer::start();
    let mut postgres = Postgres::own().await;
    let pod = Pod::builder().redis(&redis).database(&postgres.url).env("LOCKABLE_JOURNAL_ABOVE", "5s").start().await;
    let client = pod.client(&pod.account("business").await.token);
    assert_eq!(client.get("/v1/acquire/long?lease=1h").await.json["lease_ms"], 3_600_000);
    postgres.stop();
    assert_eq!(client.get("/v1/acquire/short?lease=5s").await.json["response"], true);
    client.get("/v1/acquire/longer?lease=6s").await.assert_problem(503, "unavailable");
    let now_ms = || jiff::Timestamp::now().as_millisecond();
    let asked_ms = now_ms();
    let renewed = client.get("/v1/heartbeat/long?lease=1h").await;
    let promised: jiff::Timestamp = renewed.json["expires_at"].as_str().unwrap().parse().unwrap();
    assert!((asked_ms + 5000..=now_ms() + 5000).contains(&promised.as_millisecond()), "{}", renewed.text);
    assert_eq!(
        (&renewed.json["response"], &renewed.json["lease_ms"]),
        (&true.into(), &5000.into()),
        "{}",
        renewed.text
    );
    // The server reverted the grant that the journal did not record.
    eventually(async || client.get("/v1/acquire/longer?lease=5s").await.json["response"] == true).await;
    // A recovery cannot end before the database is readable.
    redis.cli(&["FLUSHALL"]);
    assert_eq!(reason(&client, "/v1/acquire/any?lease=1s").await, "recovering");
    client.get("/v1/heartbeat/long?lease=1h").await.assert_problem(503, "unavailable");
    client.get("/v1/release/long").await.assert_problem(503, "unavailable");
    postgres.start();
    eventually(async || client.get("/v1/heartbeat/long?lease=1h").await.json["lease_ms"] == 3_600_000).await;
    wait_until_open(&client, Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_database_accepts_long_leases_again() {
    let cluster = Cluster::start_with_short_recovery(1).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    assert_eq!(client.get("/v1/acquire/before?lease=1h").await.json["response"], true);
    for before in ["UPDATE stores SET epoch = 1, founded = 1", "DELETE FROM stores"] {
        cluster.postgres.query(before).unwrap();
        let granted = client.get("/v1/acquire/after?lease=1h&owner=ana").await;
        assert_eq!(granted.json["response"], true, "{before}: {}", granted.text);
    }
    // A server must not overwrite the rows of a later epoch. If no server works in that epoch, the
    // server begins an even later one.
    cluster.postgres.query("UPDATE stores SET epoch = 9000000000000000").unwrap();
    client.get("/v1/acquire/late?lease=1h").await.assert_problem(503, "unavailable");
    eventually(async || client.get("/v1/acquire/late?lease=1s").await.status == 503).await;
    client.get("/v1/heartbeat/after?lease=1h&owner=ana").await.assert_problem(503, "unavailable");
    wait_until_open(&client, Instant::now()).await;
    assert_eq!(client.get("/v1/heartbeat/after?lease=1h&owner=ana").await.json["lease_ms"], 3_600_000);
}
