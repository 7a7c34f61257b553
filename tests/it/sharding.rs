//! In a Redis Cluster the locks are spread over the nodes; lists, quotas and usage of an account
//! cover all nodes.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all, stream};

use crate::support::{Client, Pod, eventually, postgres::Postgres, redis::RedisServer, topology::RedisCluster};

/// Two servers on a Redis Cluster, with one client each.
struct ShardedCluster {
    cluster: RedisCluster,
    pods: [Pod; 2],
    clients: [Client; 2],
    _postgres: Postgres,
}

impl ShardedCluster {
    async fn start(plan: &[&str]) -> Self {
        let cluster = RedisCluster::start().await;
        let postgres = Postgres::database().await;
        let pods = [pod(&cluster, &postgres).await, pod(&cluster, &postgres).await];
        let set = [&["plan", "set", "business", "--rate", "100000", "--burst", "100000"], plan].concat();
        pods[0].operator(&set).await;
        let token = pods[0].account("business").await.token;
        let clients = pods.each_ref().map(|pod| pod.client(&token));
        Self { cluster, pods, clients, _postgres: postgres }
    }

    /// Acquires these names, alternately on both servers and with this concurrency. Returns the
    /// number of grants.
    async fn acquire(&self, names: impl Iterator<Item = String>, at_once: usize) -> usize {
        let granted = stream::iter(names.enumerate()).map(async |(number, name)| {
            let answer = self.clients[number % 2].get(&format!("/v1/acquire/{name}?lease=1h")).await;
            if answer.status != 200 {
                answer.assert_problem(429, "too-many-locks");
            }
            usize::from(answer.json["response"] == true)
        });
        granted.buffer_unordered(at_once).fold(0, async |sum, granted| sum + granted).await
    }
}

async fn pod(cluster: &RedisCluster, postgres: &Postgres) -> Pod {
    let pod = Pod::builder().env("LOCKABLE_REDIS_URL", &cluster.url()).database(&postgres.url);
    pod.env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await
}

fn names(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{prefix}-{number}"))
}

/// Returns how often each primary ran a script.
fn scripts_run(cluster: &RedisCluster) -> [u64; 3] {
    [0, 1, 2].map(|range| {
        let stats = cluster.cli(range, &["INFO", "commandstats"]);
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
        calls.and_then(|calls| calls.parse().ok()).unwrap_or(0)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_load_are_spread_evenly() {
    let sharded = ShardedCluster::start(&[]).await;
    let before = scripts_run(&sharded.cluster);
    assert_eq!(sharded.acquire(names("job", 1000), 20).await, 1000);
    let after = scripts_run(&sharded.cluster);
    let counts = [0, 1, 2].map(|range| sharded.cluster.cli(range, &["KEYS", "lockable:1:{*}:l:*"]).lines().count());
    let run = [0, 1, 2].map(|range| after[range] - before[range]);
    println!("of 1,000 locks the nodes have {counts:?}, and ran {run:?} scripts");
    assert_eq!(counts.iter().sum::<usize>(), 1000);
    assert!(counts.iter().all(|count| (283..383).contains(count)), "{counts:?}");
    // The servers' own polls are spread, too. The account's rate is on one node, but is charged for
    // many requests at once.
    let all: u64 = run.iter().sum();
    assert!(run.iter().all(|run| (all * 25 / 100..all * 42 / 100).contains(run)), "{run:?}");
    for range in [0, 1, 2] {
        let keys = sharded.cluster.cli(range, &["KEYS", "lockable:1:{*}:l:*"]);
        let names = keys.lines().map(|key| key.split("-/").nth(1).unwrap());
        assert!(names.into_iter().all(|name| sharded.cluster.range_of_lock(name) == range));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_quota_covers_all_shards() {
    let sharded = ShardedCluster::start(&["--locks", "60"]).await;
    // Sequential acquires exceed the quota by two at most, on either server.
    let one_by_one = sharded.acquire(names("slow", 70), 1).await;
    assert!((60..=62).contains(&one_by_one), "{one_by_one}");
    let refused = sharded.clients[1].get("/v1/acquire/one-more").await;
    refused.assert_problem(429, "too-many-locks");
    assert!(refused.text.contains(&format!("holds {one_by_one} locks")), "{}", refused.text);
    let held = sharded.clients[0].get("/v1/account").await.json["locks_held"].as_u64().unwrap();
    assert_eq!(held as usize, one_by_one);
    // Freed quota is usable at once on the other server.
    for name in 0..=one_by_one - 60 {
        let freed = sharded.clients[0].get(&format!("/v1/release/slow-{name}")).await;
        assert_eq!(freed.json["response"], true, "{}", freed.text);
    }
    let again = sharded.clients[1].get("/v1/acquire/one-more?lease=1h").await;
    assert_eq!(again.json["response"], true, "{}", again.text);

    // Concurrent acquires on servers that have not counted the account yet.
    let token = sharded.pods[0].account("business").await.token;
    let clients = sharded.pods.each_ref().map(|pod| pod.client(&token));
    let sharded = ShardedCluster { clients, ..sharded };
    let at_once = sharded.acquire(names("fast", 300), 40).await;
    assert!((60..=90).contains(&at_once), "{at_once}");
    // Once the servers know each other's counts, they grant nothing more.
    let rounds = AtomicUsize::new(0);
    eventually(async || {
        let later = format!("later-{}", rounds.fetch_add(1, Ordering::Relaxed));
        sharded.acquire(names(&later, 50), 10).await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiter_quota_covers_all_shards() {
    let sharded = ShardedCluster::start(&["--waiters", "5"]).await;
    assert_eq!(sharded.acquire(names("held", 8), 1).await, 8);
    let waiting: Vec<_> = (0..5)
        .map(|number| {
            let client = sharded.clients[number % 2].clone();
            tokio::spawn(async move { client.get(&format!("/v1/acquire/held-{number}?wait=30s")).await })
        })
        .collect();
    let counted = async || sharded.clients[0].get("/v1/account").await.json["requests_waiting"] == 5;
    eventually(counted).await;
    // The other server may not know of the last waiter yet.
    let sixth = async || sharded.clients[0].get("/v1/acquire/held-6?wait=50ms").await;
    eventually(async || sixth().await.status != 200).await;
    let refused = sixth().await;
    refused.assert_problem(429, "too-many-waiting");
    assert!(refused.text.contains("the account has 5 queued requests"), "{}", refused.text);
    for number in 0..5 {
        sharded.clients[1].get(&format!("/v1/release/held-{number}")).await;
    }
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().json["response"], true);
    }
    let sixth = sharded.clients[0].get("/v1/acquire/held-6?wait=50ms").await;
    assert_eq!(sixth.json["reason"], "timed_out", "{}", sixth.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_merges_all_shards_in_one_order() {
    let sharded = ShardedCluster::start(&[]).await;
    // Each lease expires a minute after the one before.
    let acquiring = names("listed", 100).enumerate().map(async |(number, name)| {
        let path = format!("/v1/acquire/{name}?lease={}m", 60 + number);
        assert_eq!(sharded.clients[number % 2].get(&path).await.json["response"], true);
    });
    join_all(acquiring).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = sharded.clients[1].get(&format!("/v1/locks?limit=7&prefix=listed{cursor}")).await.json;
        let locks = page["locks"].as_array().unwrap();
        assert!(locks.len() <= 7);
        seen.extend(locks.iter().map(|lock| lock["name"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, names("listed", 100).collect::<Vec<_>>());
    let account = sharded.clients[0].get("/v1/account").await.json;
    assert_eq!(account["locks_held"], 100, "{account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_order_holds_on_every_node() {
    let sharded = ShardedCluster::start(&[]).await;
    let name_on = |range| names("fair", 100).find(|name| sharded.cluster.range_of_lock(name) == range).unwrap();
    for name in [0, 1, 2].map(name_on) {
        let acquire = |owner: &str| format!("/v1/acquire/{name}?owner={owner}&lease=30s&wait=20s");
        assert_eq!(sharded.clients[0].get(&acquire("first")).await.json["response"], true);
        let mut waiting = Vec::new();
        for number in 0..6 {
            let (client, path) = (sharded.clients[number % 2].clone(), acquire(&format!("waiter-{number}")));
            waiting.push(tokio::spawn(async move { client.get(&path).await }));
            let view = format!("/v1/locks/{name}");
            eventually(async || sharded.clients[0].get(&view).await.json["waiting"] == number + 1).await;
        }
        let mut before = "first".to_owned();
        for (number, waiting) in waiting.into_iter().enumerate() {
            let release = format!("/v1/release/{name}?owner={before}");
            assert_eq!(sharded.clients[1].get(&release).await.json["response"], true);
            let granted = waiting.await.unwrap();
            before = format!("waiter-{number}");
            assert_eq!((&granted.json["response"], &granted.json["owner"]), (&true.into(), &(&*before).into()));
        }
    }
}

/// A cluster replaces a single Redis, and a single Redis the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn replacing_a_single_redis_by_a_cluster_starts_a_recovery() {
    let (cluster, single, postgres) = (RedisCluster::start().await, RedisServer::start(), Postgres::database().await);
    let start = async |url: &str| {
        let pod = Pod::builder().env("LOCKABLE_REDIS_URL", url).database(&postgres.url);
        pod.env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await
    };
    let urls = [single.url(), cluster.url(), single.url()];
    let mut pod = start(&urls[0]).await;
    let token = pod.account("business").await.token;
    for (number, next) in urls[1..].iter().enumerate() {
        let client = pod.client(&token);
        let long = format!("/v1/acquire/long-{number}?owner=ana&lease=1h");
        assert_eq!(client.get(&long).await.json["response"], true);
        assert_eq!(pod.stop().await, Some(0));
        single.cli(&["FLUSHALL"]);

        let begun = Instant::now();
        pod = start(next).await;
        let client = pod.client(&token);
        for name in names("new", 20) {
            let acquire = async || client.get(&format!("/v1/acquire/{name}?lease=1s")).await.json;
            if number == 0 || name == "new-0" {
                eventually(async || acquire().await["response"] == true).await;
                assert!(begun.elapsed() >= Duration::from_secs(6), "{name}: granted after {:?}", begun.elapsed());
            }
        }
        for before in 0..=number {
            let kept = client.get(&format!("/v1/acquire/long-{before}?owner=eve")).await.json;
            assert_eq!((&kept["reason"], &kept["holder"]["owner"]), (&"held".into(), &"ana".into()), "{kept}");
        }
    }
}
