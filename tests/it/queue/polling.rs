//! How often a server polls Redis for queued requests.

use super::{SLACK, acquire, assert_granted, enqueue, release};
use crate::support::{Cluster, Pod, eventually};

/// Returns how often a server has run a script.
async fn runs(pod: &Pod, script: &str) -> u64 {
    let metrics = pod.admin().get("/metrics").await.text;
    let series = format!("lockable_store_duration_seconds_count{{script=\"{script}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
    line.unwrap_or_default()
}

/// Waits until a server has sent this many more of its heartbeats, one per second.
async fn pass_seconds(pod: &Pod, seconds: u64) {
    let before = runs(pod, "server_heartbeat").await;
    eventually(async || runs(pod, "server_heartbeat").await >= before + seconds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_is_polled_rarely_and_only_while_it_has_entries() {
    let cluster = Cluster::start(1).await;
    let pod = &cluster.pods[0];
    let client = pod.client(&cluster.account("business").await.token);
    assert_granted(&acquire(&client, "busy?lease=1h").await);
    let waiter = enqueue(&client, "busy", "").await;
    let [polls, claims] = [runs(pod, "poll_queue").await, runs(pod, "claim").await];
    pass_seconds(pod, 6).await;
    let polled = runs(pod, "poll_queue").await - polls;
    assert!((1..=3 + SLACK.as_secs()).contains(&polled), "{polled} polls in six seconds");
    let claimed = runs(pod, "claim").await - claims;
    assert!(claimed <= 1, "{claimed} claims in six seconds");

    release(&client, "busy").await;
    assert_granted(&waiter.await.unwrap());
    let polls = runs(pod, "poll_queue").await;
    pass_seconds(pod, 5).await;
    let polled = runs(pod, "poll_queue").await - polls;
    assert!(polled <= 1, "{polled} polls of an empty queue");
}
