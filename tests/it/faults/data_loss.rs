//! Redis restarts without some of its data.

use std::time::{Duration, Instant};

use super::{FaultOutcome, RECOVERY, WorkloadConfig, clients, cluster, run_with_fault};
use crate::support::{Client, Cluster, eventually};

/// Acquires 200 locks with one owner each, alternately with leases of an hour and of a minute. The
/// journal records both.
pub(super) async fn hold(client: &Client) -> Vec<(String, u64)> {
    let mut held = Vec::new();
    for number in 0..200 {
        let lease = if number % 2 == 0 { "1h" } else { "60s" };
        let name = format!("held-{number}?owner=keeper-{number}&lease={lease}");
        let granted = client.get(&format!("/v1/acquire/{name}")).await;
        held.push((name, granted.json["fencing_token"].as_u64().unwrap()));
    }
    held
}

/// Asserts that all grants are still valid.
pub(super) async fn assert_held(client: &Client, held: &[(String, u64)]) {
    for (name, fence) in held {
        let renewed = client.get(&format!("/v1/heartbeat/{name}")).await;
        assert_eq!(renewed.json["fencing_token"].as_u64(), Some(*fence), "{name}: {}", renewed.text);
    }
}

fn assert_recovered(outcome: &FaultOutcome, since: Instant) {
    assert!(outcome.tally.recovering > 0, "{:?}", outcome.tally);
    assert!(since.elapsed() >= RECOVERY);
}

async fn assert_recovers_from(name: &str, fault: impl AsyncFnOnce(&mut Cluster)) {
    let mut cluster = cluster().await;
    let clients = clients(&cluster.pods).await;
    let held = hold(&clients[0]).await;
    let mut since = Instant::now();
    let outcome = run_with_fault(name, &clients, WorkloadConfig::default(), async || {
        since = Instant::now();
        fault(&mut cluster).await;
    })
    .await;
    assert_recovered(&outcome, since);
    assert_held(&clients[1], &held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_redis_recovers_from_its_append_only_file() {
    assert_recovers_from("killed", async |cluster| cluster.redis.restart()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_redis_recovers_without_the_tail_of_its_file() {
    assert_recovers_from("killed, 64 KiB lost", async |cluster| cluster.redis.restart_without_tail(64 * 1024)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_restarts_empty() {
    assert_recovers_from("back empty", async |cluster| cluster.redis.restart_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_flushed_under_load() {
    assert_recovers_from("FLUSHALL", async |cluster| {
        cluster.redis.cli(&["FLUSHALL"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_loads_the_data_of_an_old_replica() {
    use crate::support::redis::RedisServer;

    assert_recovers_from("REPLICAOF", async |cluster| {
        // Afterwards Redis contains the older data of the copy.
        let copy = RedisServer::builder().replica_of(&cluster.redis).start();
        eventually(async || copy.cli(&["INFO", "replication"]).contains("master_link_status:up")).await;
        copy.cli(&["REPLICAOF", "NO", "ONE"]);
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.redis.cli(&["REPLICAOF", "127.0.0.1", &copy.port().to_string()]);
        eventually(async || cluster.redis.cli(&["INFO", "replication"]).contains("master_link_status:up")).await;
        cluster.redis.cli(&["REPLICAOF", "NO", "ONE"]);
    })
    .await;
}
