//! Redis with replicas: the primary is lost and a replica is promoted.

use std::time::Duration;

use super::{
    RECOVERY, WorkloadConfig, clients,
    data_loss::{assert_held, hold},
    durable, run_with_fault,
};
use crate::support::{
    Client, Pod, eventually,
    postgres::Postgres,
    proxy::Proxy,
    redis::RedisServer,
    topology::{RedisCluster, Sentinel},
};

const PASSWORD: &str = "s3cret";

async fn pod(url: &str, postgres: &Postgres) -> Pod {
    let pod = Pod::builder().env("LOCKABLE_REDIS_URL", url).database(&postgres.url);
    pod.env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await
}

fn sentinel_url(trio: &[Sentinel]) -> String {
    let hosts: Vec<_> = trio.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
    format!("redis+sentinel://:{PASSWORD}@{}/main?sentinel_password={PASSWORD}", hosts.join(","))
}

fn has_replica(primary: &RedisServer) -> bool {
    primary.cli(&["INFO", "replication"]).contains("state=online")
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_promotes_a_lagging_replica() {
    let mut primary = durable().password(PASSWORD).start();
    let replica = durable().password(PASSWORD).replica_of(&primary).start();
    eventually(async || has_replica(&primary)).await;
    let trio = Sentinel::trio("main", primary.port(), PASSWORD).await;
    let postgres = Postgres::database().await;
    let url = sentinel_url(&trio);
    let pods = [pod(&url, &postgres).await, pod(&url, &postgres).await];
    let clients = clients(&pods).await;
    let held = hold(&clients[0]).await;
    let outcome = run_with_fault(
        "failed over by Sentinel, the newest grants lost",
        &clients,
        WorkloadConfig::default(),
        async || {
            replica.pause();
            tokio::time::sleep(Duration::from_millis(500)).await;
            primary.stop();
            replica.resume();
        },
    )
    .await;
    assert!(outcome.tally.recovering > 0, "{:?}", outcome.tally);
    assert_held(&clients[1], &held).await;

    // The old primary returns as a replica and becomes the primary again, while connections to the
    // other server stay open.
    primary.restart();
    eventually(async || has_replica(&replica)).await;
    let outcome = run_with_fault("failed over by hand", &clients, WorkloadConfig::default(), async || {
        eventually(async || trio[0].cli(&["SENTINEL", "FAILOVER", "main"]).contains("OK")).await;
        eventually(async || primary.cli(&["INFO", "replication"]).contains("role:master")).await;
    })
    .await;
    assert!(outcome.tally.recovering > 0, "{:?}", outcome.tally);
    assert_held(&clients[0], &held).await;
}

/// A network partition: the sentinels, the replica and one server are on one side, the old primary
/// and the other server on the other. Both sides continue.
#[tokio::test(flavor = "multi_thread")]
async fn master_is_partitioned_with_one_server() {
    let primary = durable().password(PASSWORD).args(&["--min-replicas-max-lag", "1"]).start();
    let proxy = Proxy::start(primary.port()).await;
    let port = proxy.port().to_string();
    let replica = durable().password(PASSWORD).args(&["--replicaof", "127.0.0.1", &port]).start();
    eventually(async || has_replica(&primary)).await;
    primary.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let trio = Sentinel::trio("main", proxy.port(), PASSWORD).await;
    let postgres = Postgres::database().await;
    let direct = format!("redis://:{PASSWORD}@127.0.0.1:{}", primary.port());
    let pods = [pod(&direct, &postgres).await, pod(&sentinel_url(&trio), &postgres).await];
    let clients = clients(&pods).await;
    let held = hold(&clients[0]).await;
    let outcome =
        run_with_fault("the primary cut off with a server", &clients, WorkloadConfig::default(), async || {
            proxy.black_hole();
            eventually(async || replica.cli(&["INFO", "replication"]).contains("role:master")).await;
            eventually(async || clients[1].get("/v1/acquire/other-side?lease=1s").await.json["response"] == true).await;
            clients[0].get("/v1/acquire/this-side?lease=1s").await.assert_problem(503, "unavailable");
            proxy.pass();
        })
        .await;
    assert!(outcome.tally.recovering > 0 && outcome.tally.unavailable > 0, "{:?}", outcome.tally);
    assert_held(&clients[1], &held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_node_is_lost() {
    let mut cluster = RedisCluster::start().await;
    let postgres = Postgres::database().await;
    let pods = [pod(&cluster.url(), &postgres).await, pod(&cluster.url(), &postgres).await];
    let clients = clients(&pods).await;
    let held = hold(&clients[0]).await;
    for range in 0..3 {
        let names = (0..100).map(|number| format!("elsewhere-{number}"));
        let names: Vec<_> = names.filter(|name| cluster.range_of_lock(name) != range).collect();
        let acquire =
            async |client: &Client, name: &str| client.get(&format!("/v1/acquire/{name}?owner=o&lease=1s")).await;
        // The previous recovery may still run.
        for name in &names {
            eventually(async || acquire(&clients[0], name).await.json["response"] == true).await;
        }
        let mut elsewhere = names.iter().cycle();
        let outcome = run_with_fault(
            &format!("node {range} lost"),
            &clients,
            WorkloadConfig { names: 20, ..WorkloadConfig::default() },
            async || {
                cluster.master(range).stop();
                eventually(async || {
                    // Locks on other nodes are granted during the failover.
                    let name = elsewhere.next().unwrap();
                    let granted = acquire(&clients[0], name).await;
                    assert_eq!(granted.json["response"], true, "{range}: {name}: {}", granted.text);
                    cluster.is_promoted(range)
                })
                .await;
                // And during the recovery of the lost node's shards.
                for name in elsewhere.by_ref().take(20) {
                    let granted = acquire(&clients[1], name).await;
                    assert_eq!(granted.json["response"], true, "{range}: {name}: {}", granted.text);
                }
            },
        )
        .await;
        assert!(outcome.tally.recovering > 0, "{range}: {:?}", outcome.tally);
        assert_held(&clients[1], &held).await;
        cluster.master(range).restart();
        cluster.wait_until_healthy().await;
    }
    // The log has no line per shard.
    for message in ["grants may have been lost", "long leases are restored", "locks are granted again"] {
        let logs = pods.each_ref().map(|pod| pod.log().lines().filter(|line| line.contains(message)).count());
        assert!(logs.iter().sum::<usize>() < 24, "{message}: {logs:?}");
        assert!(logs.iter().any(|lines| *lines > 0), "{message}: {logs:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_slot_migrates() {
    let cluster = RedisCluster::start().await;
    let postgres = Postgres::database().await;
    let pods = [pod(&cluster.url(), &postgres).await, pod(&cluster.url(), &postgres).await];
    let clients = clients(&pods).await;
    let held = hold(&clients[0]).await;
    // A lock that the workload uses, too, and its shard.
    let from = cluster.range_of_lock("any-lock-0");
    assert_eq!(clients[0].get("/v1/acquire/any-lock-0?owner=me&lease=60s").await.json["response"], true);
    let key = cluster.cli(from, &["KEYS", "*:l:-/any-lock-0"]).trim().to_owned();
    let renew = async |client: &Client| client.get("/v1/heartbeat/any-lock-0?owner=me&lease=60s").await.json;
    let before = renew(&clients[0]).await;
    // An unused lock of the same shard.
    let mut others = (0..).map(|number| format!("other-{number}"));
    let other = others.find(|name| cluster.shard_of_lock(name) == cluster.shard_of_lock("any-lock-0")).unwrap();
    let outcome = run_with_fault("a slot moved", &clients, WorkloadConfig::default(), async || {
        cluster.move_slot(&key, from, (from + 1) % 3);
        let other = format!("/v1/acquire/{other}?lease=1s");
        eventually(async || clients[1].get(&other).await.json["reason"] == "recovering").await;
        for client in &clients {
            eventually(async || renew(client).await["fencing_token"] == before["fencing_token"]).await;
        }
        assert_eq!(clients[1].get("/v1/release/any-lock-0?owner=me").await.json["response"], true);
        let answer = clients[1].get("/v1/acquire/any-lock-0?owner=you&lease=1s").await.json;
        assert_eq!(answer["reason"], "recovering", "{answer}");
    })
    .await;
    assert_eq!(outcome.tally.unavailable, 0, "every request during the migration was answered: {:?}", outcome.tally);
    // The other shards grant all the time, and this one after its recovery.
    assert!(outcome.resumed_after < RECOVERY, "{:?}", outcome.resumed_after);
    eventually(async || clients[0].get("/v1/acquire/any-lock-0?owner=you&lease=60s").await.json["response"] == true)
        .await;
    assert_held(&clients[1], &held).await;
    let moved = cluster.cli((from + 1) % 3, &["KEYS", "*:l:-/any-lock-0"]);
    assert!(moved.contains("any-lock-0"), "{moved}");
}
