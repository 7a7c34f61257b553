//! The queue of a lock: its order, reservations, and waiting without messages.

mod disconnects;
mod limits;
mod polling;
mod reservations;

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{Client, Cluster, Pod, Response, eventually, exclusive_cpu};

/// The tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// Returns the number of queued requests of a lock.
async fn waiting(client: &Client, name: &str) -> u64 {
    let view = client.get(&format!("/v1/locks/{name}")).await;
    assert_eq!(view.status, 200, "{}", view.text);
    view.json["waiting"].as_u64().unwrap()
}

/// Sends an acquire that waits; returns once the request is in the queue.
async fn enqueue(client: &Client, name: &str, params: &str) -> JoinHandle<Response> {
    let before = waiting(client, name).await;
    let asking = client.clone();
    let path = format!("/v1/acquire/{name}?wait=50s&{params}");
    let waiter = tokio::spawn(async move { asking.get(&path).await });
    eventually(async || waiting(client, name).await > before).await;
    waiter
}

async fn acquire(client: &Client, name: &str) -> Response {
    client.get(&format!("/v1/acquire/{name}")).await
}

async fn release(client: &Client, name: &str) {
    let released = client.get(&format!("/v1/release/{name}")).await;
    assert_eq!(released.json["response"], true, "{}", released.text);
}

#[track_caller]
fn assert_granted(answer: &Response) {
    assert_eq!((answer.status, &answer.json["response"]), (200, &true.into()), "{}", answer.text);
}

#[track_caller]
fn assert_refused(answer: &Response, reason: &str) {
    assert_eq!((answer.status, &answer.json["response"]), (200, &false.into()), "{}", answer.text);
    assert_eq!(answer.json["reason"], reason, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_is_granted_in_queue_order_on_every_store() {
    let cluster = Cluster::start(2).await;
    let account = cluster.account("business").await;
    let embedded = Pod::start().await;
    let on_redis = cluster.pods.iter().map(|pod| pod.client(&account.token)).collect::<Vec<_>>();
    for clients in [on_redis, vec![embedded.client(&embedded.first_token())]] {
        assert_granted(&acquire(&clients[0], "line").await);
        let mut waiters = Vec::new();
        for number in 0..6 {
            let client = &clients[number % clients.len()];
            waiters.push(enqueue(client, "line", &format!("note=waiter-{number}")).await);
            // A request that does not wait cannot pass the queue.
            assert_refused(&acquire(client, "line").await, "held");
        }
        let mut last = 0;
        for waiter in waiters {
            release(&clients[0], "line").await;
            let granted = waiter.await.unwrap();
            assert_granted(&granted);
            let fence = granted.json["fencing_token"].as_u64().unwrap();
            assert!(fence > last);
            last = fence;
            assert_refused(&acquire(&clients[0], "line").await, "held");
        }
        release(&clients[0], "line").await;
        assert_granted(&acquire(&clients[0], "line").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_order_survives_the_death_of_one_of_three_servers() {
    const WAITERS: usize = 200;
    let _cpu = exclusive_cpu().await;
    let mut cluster = Cluster::start(3).await;
    cluster.operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let account = cluster.account("business").await;
    let clients: Vec<_> = cluster.pods.iter().map(|pod| pod.client(&account.token)).collect();
    assert_granted(&clients[0].get("/v1/acquire/line?owner=first").await);

    // Each waiter reports its grant, and the test releases it at once.
    let (sender, mut granted) = tokio::sync::mpsc::unbounded_channel();
    let mut waiters = Vec::new();
    for number in 0..WAITERS {
        let (client, sender) = (clients[number % 3].clone(), sender.clone());
        waiters.push(tokio::spawn(async move {
            let path = format!("/v1/acquire/line?wait=55s&lease=60s&owner=waiter-{number}");
            let Some(answer) = client.try_get(&path).await else { return };
            sender.send((number, Instant::now(), answer)).unwrap();
        }));
        eventually(async || waiting(&clients[0], "line").await > number as u64).await;
    }
    drop(sender);
    assert_eq!(clients[0].get("/v1/release/line?owner=first").await.json["response"], true);

    let mut order = Vec::new();
    let mut pauses = Vec::new();
    let mut last = Instant::now();
    while let Some((number, at, answer)) = granted.recv().await {
        assert_granted(&answer);
        pauses.push(at - last);
        order.push(number);
        if order.len() == WAITERS / 2 {
            cluster.pods[2].kill();
        }
        last = Instant::now();
        let released = clients[0].get(&format!("/v1/release/line?owner=waiter-{number}")).await;
        assert_eq!(released.json["response"], true, "{}", released.text);
    }
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert!(order.is_sorted(), "{order:?}");
    let lived = (0..WAITERS).filter(|number| number % 3 != 2);
    for number in lived {
        assert!(order.contains(&number), "waiter {number} was skipped");
    }
    let long = pauses.iter().filter(|pause| **pause > Duration::from_secs(1)).collect::<Vec<_>>();
    assert!(long.iter().all(|pause| **pause < Duration::from_secs(10) + SLACK), "{long:?}");
    assert!(long.len() <= 2, "the other waiters were delayed {} times: {long:?}", long.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_lease_is_granted_to_next_waiter_at_once() {
    let cluster = Cluster::start(1).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    let mut longest = Duration::ZERO;
    for round in 0..3 {
        let name = format!("expiry-{round}");
        let held = client.get(&format!("/v1/acquire/{name}?lease=3s")).await;
        let waiter = enqueue(&client, &name, "").await;
        let granted = waiter.await.unwrap();
        assert_granted(&granted);
        let expired_at: jiff::Timestamp = held.json["expires_at"].as_str().unwrap().parse().unwrap();
        let late = Duration::try_from(jiff::Timestamp::now().duration_since(expired_at)).unwrap();
        longest = longest.max(late);
        // The next waiter depends on an expiry that only the granting server knows.
        let next = enqueue(&client, &name, "lease=1s").await;
        release(&client, &name).await;
        assert_granted(&next.await.unwrap());
    }
    assert!(longest < Duration::from_millis(500), "a waiter got the lock {longest:?} after the lease expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn owner_keeps_its_position_after_its_request_ends() {
    let cluster = Cluster::start(2).await;
    let account = cluster.account("business").await;
    let [here, there] = [0, 1].map(|pod| cluster.pods[pod].client(&account.token));
    assert_granted(&acquire(&here, "kept").await);

    let short = here.get("/v1/acquire/kept?owner=ana&wait=500ms").await;
    assert_refused(&short, "timed_out");
    assert!(short.json["retry_after_ms"].as_u64().unwrap() > 50_000, "{}", short.text);
    assert_eq!(short.json["holder"]["owner"], Value::Null, "{}", short.text);
    let behind = enqueue(&here, "kept", "owner=bob").await;
    // Ana asks another server and keeps her position.
    let again = {
        let there = there.clone();
        tokio::spawn(async move { there.get("/v1/acquire/kept?owner=ana&wait=50s").await })
    };
    eventually(async || cluster.pods[1].metric("lockable_waiters").await == Some(1.0)).await;
    assert_eq!(here.get("/v1/account").await.json["requests_waiting"], 2);
    release(&here, "kept").await;
    assert_granted(&again.await.unwrap());

    // Bob is first now. Eve's request ends: her reservation keeps her position, but does not delay
    // the hand-over.
    let away = here.get("/v1/acquire/kept?owner=eve&wait=200ms").await;
    assert_refused(&away, "timed_out");
    let last = enqueue(&here, "kept", "owner=zoe").await;
    assert_eq!(there.get("/v1/release/kept?owner=ana").await.json["response"], true);
    assert_granted(&behind.await.unwrap());
    let released = Instant::now();
    assert_eq!(there.get("/v1/release/kept?owner=bob").await.json["response"], true);
    assert_granted(&last.await.unwrap());
    assert!(released.elapsed() < SLACK, "a reservation delayed the hand-over by {:?}", released.elapsed());
    assert_eq!(waiting(&here, "kept").await, 1, "only eve's reservation");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_acquire_of_an_owner_replaces_the_first() {
    let cluster = Cluster::start(2).await;
    let account = cluster.account("business").await;
    let [here, there] = [0, 1].map(|pod| cluster.pods[pod].client(&account.token));
    assert_granted(&acquire(&here, "twice").await);
    let first = enqueue(&here, "twice", "owner=ana").await;
    let behind = enqueue(&here, "twice", "owner=bob").await;
    let second = {
        let there = there.clone();
        tokio::spawn(async move { there.get("/v1/acquire/twice?owner=ana&wait=50s").await })
    };
    let asked = Instant::now();
    assert_refused(&first.await.unwrap(), "replaced");
    assert!(asked.elapsed() < SLACK, "{:?}", asked.elapsed());
    assert_eq!(here.get("/v1/account").await.json["requests_waiting"], 2);
    release(&here, "twice").await;
    assert_granted(&second.await.unwrap());
    assert_eq!(there.get("/v1/release/twice?owner=ana").await.json["response"], true);
    assert_granted(&behind.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_view_contains_the_position_of_an_owner() {
    let (cluster, embedded) = (Cluster::start(1).await, Pod::start().await);
    let clustered = cluster.pods[0].client(&cluster.account("business").await.token);
    for client in [clustered, embedded.client(&embedded.first_token())] {
        assert_granted(&acquire(&client, "position").await);
        let ana = enqueue(&client, "position", "owner=ana").await;
        let anonymous = enqueue(&client, "position", "").await;
        let bob = enqueue(&client, "position", "owner=bob").await;
        let position =
            async |query: &str| client.get(&format!("/v1/locks/position{query}")).await.json["position"].clone();
        for (query, expected) in [("?owner=ana", Some(1)), ("?owner=bob", Some(3)), ("?owner=eve", None), ("", None)] {
            assert_eq!(position(query).await.as_u64(), expected, "{query}");
        }
        release(&client, "position").await;
        assert_granted(&ana.await.unwrap());
        eventually(async || position("?owner=bob").await == 2).await;
        assert!(position("?owner=ana").await.is_null(), "the holder has no position");
        assert_eq!(client.get("/v1/release/position?owner=ana").await.json["response"], true);
        anonymous.await.unwrap();
        release(&client, "position").await;
        bob.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn release_by_a_waiting_owner_removes_its_entry() {
    let pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    assert_granted(&acquire(&client, "left").await);
    assert_refused(&client.get("/v1/acquire/left?owner=ana&wait=100ms").await, "timed_out");
    assert_eq!(waiting(&client, "left").await, 1);
    let released = client.get("/v1/release/left?owner=ana").await;
    assert_eq!(released.json["reason"], "held_by_another");
    assert_eq!(waiting(&client, "left").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_granted_locks_without_pubsub() {
    let cluster = Cluster::start(2).await;
    let account = cluster.account("business").await;
    let clients = [0, 1].map(|pod| cluster.pods[pod].client(&account.token));
    // Forbid all subscriptions.
    cluster.redis.cli(&["ACL", "SETUSER", "default", "resetchannels"]);
    cluster.redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_granted(&acquire(&clients[0], "no-messages").await);
    let mut waiters = Vec::new();
    for number in 0..4 {
        waiters.push(enqueue(&clients[number % 2], "no-messages", "").await);
    }
    for waiter in waiters {
        let released = Instant::now();
        release(&clients[0], "no-messages").await;
        assert_granted(&waiter.await.unwrap());
        assert!(released.elapsed() < Duration::from_secs(4), "{:?}", released.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_request_survives_a_flush_of_redis() {
    let cluster = Cluster::start_with_short_recovery(1).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    assert_granted(&client.get("/v1/acquire/flushed?lease=1s").await);
    let waiter = enqueue(&client, "flushed", "").await;
    cluster.redis.cli(&["FLUSHALL"]);
    assert_granted(&waiter.await.unwrap());
}
