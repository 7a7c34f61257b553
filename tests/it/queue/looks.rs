//! How often a server asks on behalf of those who wait.

use super::{SLACK, acquire, assert_granted, release, stand_in_line};
use crate::support::{Cluster, Pod, eventually};

/// How often a server has run a script.
async fn runs(pod: &Pod, script: &str) -> u64 {
    let metrics = pod.admin().get("/metrics").await.text;
    let series = format!("lockable_store_duration_seconds_count{{script=\"{script}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
    line.unwrap_or_default()
}

/// Waits until a server has said so many times more that it is there, once a second.
async fn pass_seconds(pod: &Pod, seconds: u64) {
    let before = runs(pod, "alive").await;
    eventually(async || runs(pod, "alive").await >= before + seconds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_looked_after_now_and_then_and_not_when_nobody_stands_in_it() {
    let cluster = Cluster::start(1).await;
    let pod = &cluster.pods[0];
    let client = pod.client(&cluster.account("business").await.token);
    assert_granted(&acquire(&client, "busy?lease=1h").await);
    let waiter = stand_in_line(&client, "busy", "").await;
    let [looks, collects] = [runs(pod, "look").await, runs(pod, "collect").await];
    pass_seconds(pod, 6).await;
    let looked = runs(pod, "look").await - looks;
    assert!((1..=3 + SLACK.as_secs()).contains(&looked), "{looked} looks in six seconds");
    let asked = runs(pod, "collect").await - collects;
    assert!(asked <= 1, "{asked} questions of who waits in six seconds");

    release(&client, "busy").await;
    assert_granted(&waiter.await.unwrap());
    let looks = runs(pod, "look").await;
    pass_seconds(pod, 5).await;
    let looked = runs(pod, "look").await - looks;
    assert!(looked <= 1, "{looked} looks though nobody waits");
}
