//! The journal follows Redis: a shortened or ended lease is not restored to its former length, in
//! whatever order the statements arrive.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{reason, wait_until_open};
use crate::support::{Cluster, Pod, eventually, postgres::Postgres, redis::RedisServer};

async fn cluster(pods: usize) -> Cluster {
    cluster_with(pods, "1s").await
}

async fn cluster_with(pods: usize, journal_above: &str) -> Cluster {
    let redis = RedisServer::builder().args(&["--appendonly", "yes"]);
    Cluster::start_with(pods, redis, &[("LOCKABLE_JOURNAL_ABOVE", journal_above)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn shortened_lease_is_not_restored_to_its_former_length() {
    let cluster = cluster_with(1, "5s").await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    let first = client.get("/v1/acquire/x?owner=ana&lease=1h").await;
    assert_eq!(first.json["response"], true, "{}", first.text);
    // Shorten one lease by a heartbeat and one by a repeated acquire.
    assert_eq!(client.get("/v1/acquire/y?owner=ana&lease=1h").await.json["response"], true);
    let shortened = client.get("/v1/heartbeat/x?owner=ana&lease=2s").await;
    assert_eq!((&shortened.json["response"], &shortened.json["lease_ms"]), (&true.into(), &2000.into()));
    assert_eq!(client.get("/v1/acquire/y?owner=ana&lease=2s").await.json["response"], true);
    let since = Instant::now();
    for name in ["x", "y"] {
        let next = client.get(&format!("/v1/acquire/{name}?owner=bob&lease=5s&wait=20s")).await;
        assert_eq!(next.json["response"], true, "{}", next.text);
    }
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    cluster.redis.cli(&["FLUSHALL"]);
    let emptied = Instant::now();
    // Bob's leases are not in the journal; he relies on both for five seconds.
    while emptied.elapsed() < Duration::from_secs(3) {
        for name in ["x", "y"] {
            let late = client.get(&format!("/v1/heartbeat/{name}?owner=ana&lease=1h")).await;
            assert_ne!(late.json["response"], true, "{name}: {}", late.text);
        }
    }
    wait_until_open(&client, emptied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_released_after_a_short_heartbeat_is_free_after_a_restart() {
    let mut cluster = cluster(1).await;
    let account = cluster.account("business").await;
    let client = cluster.pods[0].client(&account.token);
    for name in ["released", "broken"] {
        assert_eq!(client.get(&format!("/v1/acquire/{name}?owner=ana&lease=1h")).await.json["response"], true);
        assert_eq!(client.get(&format!("/v1/heartbeat/{name}?owner=ana&lease=1s")).await.json["response"], true);
    }
    assert_eq!(client.get("/v1/release/released?owner=ana").await.json["response"], true);
    let boss = ["token", "create", "--account", &account.email, "--scope", "manage", "--label", "boss"];
    let boss = cluster.operator(&boss).await["token"].as_str().unwrap().to_owned();
    cluster.pods[0].client(&boss).request("DELETE", "/v1/locks/broken", &[]).await;
    cluster.redis.restart();
    wait_until_open(&client, Instant::now()).await;
    for name in ["released", "broken"] {
        let granted = client.get(&format!("/v1/acquire/{name}?owner=bob&lease=1s")).await;
        assert_eq!(granted.json["response"], true, "{name}: {}", granted.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_concurrent_with_a_release_restores_nothing() {
    const LOCKS: usize = 100;
    let mut cluster = cluster(2).await;
    let account = cluster.account("business").await;
    let clients = [0, 1].map(|pod| cluster.pods[pod].client(&account.token));
    let released = join_all((0..LOCKS).map(async |n| {
        let acquired = clients[0].get(&format!("/v1/acquire/n{n}?owner=ana&lease=1h")).await;
        assert_eq!(acquired.json["response"], true, "{}", acquired.text);
        let (heartbeat, release) =
            (format!("/v1/heartbeat/n{n}?owner=ana&lease=2h"), format!("/v1/release/n{n}?owner=ana"));
        let (_, released) = tokio::join!(clients[0].get(&heartbeat), clients[1].get(&release));
        released.json["response"] == true
    }))
    .await;
    assert!(released.iter().filter(|released| **released).count() > LOCKS / 2);
    cluster.redis.restart();
    wait_until_open(&clients[0], Instant::now()).await;
    let listed = clients[0].get("/v1/locks?prefix=n&limit=1000").await;
    assert_eq!(listed.json["locks"].as_array().map(Vec::len), Some(0), "{}", listed.text);
}

/// The journal is unavailable to a recovery for a while, and Redis has an older grant than the
/// journal.
#[tokio::test(flavor = "multi_thread")]
async fn grants_are_confirmed_only_after_comparison_with_the_journal() {
    let mut cluster = cluster(1).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    for name in ["stale", "kept"] {
        assert_eq!(client.get(&format!("/v1/acquire/{name}?owner=ana&lease=1h")).await.json["response"], true);
    }
    // Simulate a later grant to another owner that Redis lost.
    let newer = "UPDATE journal SET fence = fence + 1, record = replace(replace(record, 'ana', 'bob'), fence::text, \
                 (fence + 1)::text) WHERE lock_key LIKE '%stale'";
    cluster.postgres.query(newer).unwrap();
    let stores_lock = cluster.postgres.lock_table("stores", "ACCESS EXCLUSIVE").await;
    cluster.redis.restart();
    eventually(async || reason(&client, "/v1/acquire/other").await == "recovering").await;
    for name in ["stale", "kept"] {
        client.get(&format!("/v1/heartbeat/{name}?owner=ana")).await.assert_problem(503, "unavailable");
        client.get(&format!("/v1/release/{name}?owner=ana")).await.assert_problem(503, "unavailable");
    }
    stores_lock.end();
    eventually(async || client.get("/v1/heartbeat/kept?owner=ana").await.json["response"] == true).await;
    assert_eq!(client.get("/v1/heartbeat/stale?owner=ana").await.json["reason"], "held_by_another");
    assert_eq!(client.get("/v1/heartbeat/stale?owner=bob&lease=1h").await.json["response"], true);
}

/// Redis's clock was an hour ahead and is corrected. Then Redis loses everything while no server
/// runs that knows the fences.
#[tokio::test(flavor = "multi_thread")]
async fn fences_never_decrease_after_a_fast_clock_is_lost() {
    let (redis, clock) = RedisServer::builder().start_with_clock(3_600_000_000);
    let postgres = Postgres::database().await;
    let start = async || {
        let pod = Pod::builder().redis(&redis).database(&postgres.url);
        pod.env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await
    };
    let mut pod = start().await;
    let token = pod.account("business").await.token;
    let fence = async |pod: &Pod| {
        let client = pod.client(&token);
        let mut fence = None;
        eventually(async || {
            fence = client.get("/v1/acquire/x?lease=1s&wait=20s").await.json["fencing_token"].as_u64();
            fence.is_some()
        })
        .await;
        client.get("/v1/release/x").await;
        fence.unwrap()
    };
    let ahead = fence(&pod).await;
    clock.set_back(3_600_000_000);
    let client = pod.client(&token);
    eventually(async || reason(&client, "/v1/acquire/any?lease=1s").await == "recovering").await;
    let right = fence(&pod).await;
    assert!(right > ahead, "{right}, {ahead}");
    let noted = || postgres.query("SELECT last_fence FROM stores").unwrap().trim().parse::<u64>().unwrap();
    eventually(async || noted() >= right).await;
    pod.kill();
    redis.cli(&["FLUSHALL"]);
    pod = start().await;
    let after = fence(&pod).await;
    assert!(after > right, "{after}, {right}");
}
