//! Redis comes back without some of what it had.

use std::time::{Duration, Instant};

use super::{RECOVERY, Trial, Wanted, clients, cluster, tried};
use crate::support::{Client, Cluster, eventually};

/// Has 200 holders, each of a lock of its own, half of them with leases that are
/// written down.
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

/// All of them hold their locks as before.
pub(super) async fn assert_held(client: &Client, held: &[(String, u64)]) {
    for (name, fence) in held {
        let renewed = client.get(&format!("/v1/heartbeat/{name}")).await;
        assert_eq!(renewed.json["fencing_token"].as_u64(), Some(*fence), "{name}: {}", renewed.text);
    }
}

fn assert_recovered(trial: &Trial, since: Instant) {
    assert!(trial.tally.recovering > 0, "{:?}", trial.tally);
    assert!(since.elapsed() >= RECOVERY);
}

async fn forgets(name: &str, fault: impl AsyncFnOnce(&mut Cluster)) {
    let mut cluster = cluster().await;
    let clients = clients(&cluster.pods).await;
    let held = hold(&clients[0]).await;
    let mut since = Instant::now();
    let trial = tried(name, &clients, Wanted::default(), async || {
        since = Instant::now();
        fault(&mut cluster).await;
    })
    .await;
    assert_recovered(&trial, since);
    assert_held(&clients[1], &held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed_and_comes_back_with_its_file() {
    forgets("killed", async |cluster| cluster.redis.restart()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed_and_has_lost_the_end_of_its_file() {
    forgets("killed, 64 KiB lost", async |cluster| cluster.redis.restart_without_tail(64 * 1024)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_comes_back_empty() {
    forgets("back empty", async |cluster| cluster.redis.restart_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_emptied_under_load() {
    forgets("FLUSHALL", async |cluster| {
        cluster.redis.cli(&["FLUSHALL"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_becomes_a_replica_of_an_old_copy_and_a_master_again() {
    use crate::support::redis::RedisServer;

    forgets("REPLICAOF", async |cluster| {
        // A copy from before is what it has afterwards.
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
