//! Reservations: the position of an owner without an open request. A reservation orders the queue,
//! and never delays it.

use std::time::{Duration, Instant};

use super::{SLACK, assert_granted, assert_refused, enqueue, release, waiting};
use crate::support::{Client, Cluster, Pod, eventually};

/// Starts an embedded server and one on Redis. Returns a client of each, on a plan with ten
/// waiters.
async fn both() -> (Pod, Cluster, [Client; 2]) {
    let (embedded, cluster) = (Pod::start().await, Cluster::start(1).await);
    for pod in [&embedded, &cluster.pods[0]] {
        pod.operator(&["plan", "set", "business", "--waiters", "10", "--rate", "1000", "--burst", "1000"]).await;
    }
    let clients = [
        embedded.client(&embedded.account("business").await.token),
        cluster.pods[0].client(&cluster.account("business").await.token),
    ];
    (embedded, cluster, clients)
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_never_block_a_free_lock() {
    let (_embedded, _cluster, clients) = both().await;
    for client in clients {
        assert_granted(&client.get("/v1/acquire/flow?owner=holder&lease=2s").await);
        let held = Instant::now();
        let mut granted = 0;
        for number in 0..9 {
            let free = held.elapsed() > Duration::from_secs(2);
            let job = client.get(&format!("/v1/acquire/flow?owner=job-{number}&wait=500ms&lease=1s")).await;
            if job.json["response"] == true {
                granted += 1;
                client.get(&format!("/v1/release/flow?owner=job-{number}")).await;
            } else {
                assert!(!free, "the lock is free: {}", job.text);
                assert_refused(&job, "timed_out");
                // A refused job does not hold the lock.
                let shown = client.get("/v1/locks/flow").await;
                assert!(shown.json["holder"]["owner"] == "holder" || shown.json["held"] == false, "{}", shown.text);
            }
        }
        assert!(granted >= 4, "{granted}");
        // Nor does a reservation block a request that does not wait.
        assert_granted(&client.get("/v1/acquire/flow?owner=plain").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reservation_counts_as_a_queued_request() {
    let (_embedded, _cluster, clients) = both().await;
    for client in clients {
        assert_granted(&client.get("/v1/acquire/quota?owner=holder").await);
        for number in 0..12 {
            let job = client.get(&format!("/v1/acquire/quota?owner=job-{number}&wait=1ms")).await;
            match number < 10 {
                true => assert_refused(&job, "timed_out"),
                false => job.assert_problem(429, "too-many-waiting"),
            }
        }
        assert_eq!(waiting(&client, "quota").await, 10);
        assert_eq!(client.get("/v1/account").await.json["requests_waiting"], 10);
        // An owner with a reservation can wait again.
        assert_refused(&client.get("/v1/acquire/quota?owner=job-3&wait=1ms").await, "timed_out");
        eventually(async || client.get("/v1/account").await.json["requests_waiting"] == 0).await;
        assert_refused(&client.get("/v1/acquire/quota?owner=another&wait=1ms").await, "timed_out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn owner_that_returns_in_time_keeps_its_position() {
    let (_embedded, _cluster, clients) = both().await;
    for client in clients {
        assert_granted(&client.get("/v1/acquire/back?owner=holder").await);
        assert_refused(&client.get("/v1/acquire/back?owner=ana&wait=1ms").await, "timed_out");
        let bob = enqueue(&client, "back", "owner=bob").await;
        let position =
            async |owner: &str| client.get(&format!("/v1/locks/back?owner={owner}")).await.json["position"].clone();
        assert_eq!(
            (position("ana").await, position("bob").await),
            (1.into(), 1.into()),
            "a reservation does not count in the position of others"
        );
        let ana = {
            let client = client.clone();
            tokio::spawn(async move { client.get("/v1/acquire/back?owner=ana&wait=50s").await })
        };
        eventually(async || position("bob").await == 2).await;
        assert_eq!(client.get("/v1/release/back?owner=holder").await.json["response"], true);
        assert_granted(&ana.await.unwrap());
        assert_eq!(client.get("/v1/release/back?owner=ana").await.json["response"], true);
        assert_granted(&bob.await.unwrap());
    }
}

/// Also if another server has the request.
#[tokio::test(flavor = "multi_thread")]
async fn release_by_a_waiting_owner_cancels_its_request() {
    let cluster = Cluster::start(2).await;
    let account = cluster.account("business").await;
    let embedded = Pod::start().await;
    let on_redis = [0, 1].map(|pod| cluster.pods[pod].client(&account.token));
    let alone = embedded.client(&embedded.first_token());
    for [here, there] in [on_redis, [alone.clone(), alone]] {
        assert_granted(&here.get("/v1/acquire/cancel?owner=holder").await);
        let ana = enqueue(&here, "cancel", "owner=ana").await;
        let bob = enqueue(&there, "cancel", "owner=bob").await;
        let asked = Instant::now();
        let released = there.get("/v1/release/cancel?owner=ana").await;
        assert_eq!(released.json["reason"], "held_by_another", "{}", released.text);
        assert_refused(&ana.await.unwrap(), "cancelled");
        assert!(asked.elapsed() < SLACK, "{:?}", asked.elapsed());
        assert_eq!(waiting(&here, "cancel").await, 1);
        assert_eq!(here.get("/v1/account").await.json["requests_waiting"], 1);
        // Ana can wait again, at the end. A release with a fencing token does not cancel her
        // request.
        let ana = enqueue(&here, "cancel", "owner=ana").await;
        there.get("/v1/release/cancel?owner=ana&fencing_token=1").await;
        assert_eq!(here.get("/v1/release/cancel?owner=holder").await.json["response"], true);
        assert_granted(&bob.await.unwrap());
        assert_eq!(here.get("/v1/release/cancel?owner=bob").await.json["response"], true);
        assert_granted(&ana.await.unwrap());
        here.get("/v1/release/cancel?owner=ana").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_acquire_is_marked_as_again() {
    let (_embedded, _cluster, clients) = both().await;
    for client in clients {
        let again = async |path: &str| client.get(path).await.json["again"].clone();
        assert!(again("/v1/acquire/again?owner=ana").await.is_null());
        assert_eq!(again("/v1/acquire/again?owner=ana").await, true);
        assert_eq!(again("/v1/acquire/again?owner=ana&wait=1s&lease=2h").await, true);
        assert!(client.get("/v1/heartbeat/again?owner=ana").await.json["again"].is_null());
        let bob = enqueue(&client, "again", "owner=bob").await;
        assert_eq!(client.get("/v1/release/again?owner=ana").await.json["response"], true);
        assert!(bob.await.unwrap().json["again"].is_null());
    }
}

/// A server dies with 200 waiters: one script removes only some of them from the queue, and the
/// waiters behind them are not delayed.
#[tokio::test(flavor = "multi_thread")]
async fn dead_entries_are_removed_in_batches() {
    let mut cluster = Cluster::start(2).await;
    cluster.operator(&["plan", "set", "business", "--waiters", "1000", "--rate", "100000", "--burst", "100000"]).await;
    let account = cluster.account("business").await;
    let clients = [0, 1].map(|pod| cluster.pods[pod].client(&account.token));
    assert_granted(&clients[0].get("/v1/acquire/gone?owner=holder&lease=10m").await);
    for number in 0..200 {
        let client = clients[1].clone();
        tokio::spawn(async move { client.try_get(&format!("/v1/acquire/gone?owner=job-{number}&wait=55s")).await });
    }
    eventually(async || waiting(&clients[0], "gone").await == 200).await;
    let last = enqueue(&clients[0], "gone", "").await;
    cluster.pods[1].kill();
    // The other servers consider it alive for a while.
    let now_ms = || jiff::Timestamp::now().as_millisecond();
    eventually(async || {
        let lives = cluster.redis.cli(&["ZRANGE", "lockable:1:{0}:pods:", "0", "-1", "WITHSCORES"]);
        lives.lines().skip(1).step_by(2).filter(|until| until.parse::<i64>().unwrap() > now_ms()).count() == 1
    })
    .await;
    let released = Instant::now();
    assert_eq!(clients[0].get("/v1/release/gone?owner=holder").await.json["response"], true);
    assert_granted(&last.await.unwrap());
    assert!(released.elapsed() < SLACK, "{:?}", released.elapsed());
    // Their reservations remain.
    assert_eq!(waiting(&clients[0], "gone").await, 200);
    release(&clients[0], "gone").await;
}
