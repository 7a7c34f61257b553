//! The memory limit of the embedded store.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Client, Pod, eventually, eventually_within};

const BYTES: &str = "lockable_embedded_bytes";
const RESIDENT: &str = "process_resident_memory_bytes";

/// Starts a server with this memory limit, and a client with enough rate to fill it.
async fn pod_with(memory: &str) -> (Pod, Client) {
    let pod = Pod::builder().env("LOCKABLE_EMBEDDED_MEMORY", memory).start().await;
    pod.operator(&["plan", "set", "business", "--rate", "1000000", "--burst", "1000000"]).await;
    let client = pod.client(&pod.account("business").await.token);
    (pod, client)
}

/// Acquires with a lock info of nearly the maximum size.
async fn lock(client: &Client, number: usize, lease: &str) -> u16 {
    let info = json!({ "ID": format!("run-{number}"), "Info": "x".repeat(2000) }).to_string();
    let path = format!("/v1/terraform/large-{number}?lease={lease}");
    client.post_body(&path, "application/json", &info).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn full_store_rejects_acquires_and_accepts_heartbeats_and_releases() {
    let (pod, filler) = pod_with("1MiB").await;
    // The rate of a small plan is counted in the store by the script of the lock.
    let client = pod.client(&pod.account("hobbyist").await.token);
    for name in ["mine", "other"] {
        assert_eq!(client.get(&format!("/v1/acquire/{name}")).await.json["response"], true);
    }
    let mut held = 0;
    while lock(&filler, held, "60s").await == 200 {
        held += 1;
        assert!(held < 1000, "{held} locks of 2 KiB in 1 MiB");
    }
    assert!(held > 200, "{held}");
    client.get("/v1/acquire/refused").await.assert_problem(503, "unavailable");
    client.get("/v1/acquire/mine?owner=waiter&wait=1s").await.assert_problem(503, "unavailable");
    for _ in 0..2 {
        assert_eq!(client.get("/v1/heartbeat/mine").await.json["response"], true);
    }
    eventually(async || pod.metric(BYTES).await.is_some_and(|bytes| bytes > 1e6)).await;
    let bytes = pod.metric(BYTES).await.unwrap();
    assert!(bytes < 1.05 * 1_048_576.0, "{bytes} bytes");
    assert_eq!(client.get("/v1/release/mine").await.json["response"], true);

    for number in 0..20 {
        assert_eq!(filler.get(&format!("/v1/release/large-{number}?owner=run-{number}")).await.json["response"], true);
    }
    let again = client.get("/v1/acquire/refused").await;
    assert_eq!(again.json["response"], true, "{}", again.text);
    assert_eq!(client.get("/v1/heartbeat/other").await.json["response"], true);
}

/// Regression: the process kept 375 MB after three seconds of large locks.
#[tokio::test(flavor = "multi_thread")]
async fn memory_of_expired_locks_is_returned_to_the_system() {
    const TASKS: usize = 8;
    const EACH: usize = 1_000;
    let (pod, client) = pod_with("1GiB").await;
    // The baseline after the first requests.
    join_all((0..TASKS).map(|task| lock(&client, task, "1s"))).await;
    let before = pod.metric(RESIDENT).await.unwrap();
    let fill = |task: usize| {
        let client = client.clone();
        async move {
            for number in 0..EACH {
                // Longer than a slow machine takes to fill the store.
                assert_eq!(lock(&client, task * EACH + number, "40s").await, 200);
            }
        }
    };
    join_all((0..TASKS).map(fill).map(tokio::spawn)).await.into_iter().for_each(Result::unwrap);
    let full = pod.metric(RESIDENT).await.unwrap();

    let full_bytes = pod.metric(BYTES).await.unwrap();
    // The leases expire first.
    let expired = async || pod.metric(BYTES).await.is_some_and(|bytes| bytes < full_bytes / 2.0);
    eventually_within(Duration::from_secs(90), expired).await;
    // Only the history of the locks remains.
    eventually(async || pod.metric(BYTES).await.is_some_and(|bytes| bytes < 2e6)).await;

    eventually(async || {
        let now = pod.metric(RESIDENT).await.unwrap();
        println!("{before} {full} {now}");
        now - before < (full - before) / 2.0
    })
    .await;
}
