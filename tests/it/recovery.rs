//! Redis loses data: nothing is granted until all lost grants have expired, and long leases are
//! restored from the journal.

mod clock;
mod journal;
mod journal_lag;
mod store;

use std::time::{Duration, Instant};

use crate::support::{
    Client, Cluster, Pod, eventually,
    postgres::Postgres,
    redis::{FakeClock, RedisServer},
};

/// The duration of a recovery in these tests.
const RECOVERY: Duration = Duration::from_secs(6);

async fn reason(client: &Client, path: &str) -> String {
    client.get(path).await.json["reason"].as_str().unwrap_or_default().to_owned()
}

/// Returns the state of the locks from the readiness endpoint.
async fn readiness(pod: &Pod) -> String {
    pod.admin().get("/readyz").await.json["locks"].as_str().unwrap_or_default().to_owned()
}

/// Waits until locks are granted again. Returns the time since `since`.
async fn wait_until_open(client: &Client, since: Instant) -> Duration {
    eventually(async || {
        let answer = client.get("/v1/acquire/probe?owner=probe&lease=1s").await;
        answer.status == 200 && answer.json["response"] == true
    })
    .await;
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_redis_grants_nothing_until_leases_expired_and_long_leases_are_restored() {
    let cluster = Cluster::start_with_short_recovery(2).await;
    let account = cluster.account("business").await;
    let clients = [0, 1].map(|pod| cluster.pods[pod].client(&account.token));
    let long = clients[0].get("/v1/acquire/long?lease=1h&owner=ana&note=of%20long%20standing").await;
    let released = clients[0].get("/v1/acquire/released?lease=1h").await;
    assert_eq!((&long.json["response"], &released.json["response"]), (&true.into(), &true.into()));
    assert_eq!(clients[1].get("/v1/release/released").await.json["response"], true);
    assert_eq!(clients[0].get("/v1/acquire/short?lease=1s").await.json["response"], true);
    eventually(async || {
        cluster.postgres.query("SELECT count(*) FROM journal WHERE ended_at IS NULL").unwrap().trim() == "1"
    })
    .await;

    let emptied = Instant::now();
    cluster.redis.cli(&["FLUSHALL"]);
    for client in &clients {
        let refused = client.get("/v1/acquire/short?lease=1s").await;
        assert_eq!(refused.json["reason"], "recovering", "{}", refused.text);
        assert!(refused.json["retry_after_ms"].as_u64().unwrap() <= RECOVERY.as_millis() as u64, "{}", refused.text);
        assert_eq!(client.get("/v1/acquire/short?lease=1s&strict=true").await.status, 423);
    }
    let waited = clients[0].get("/v1/acquire/short?lease=1s&wait=1s").await;
    assert_eq!(waited.json["reason"], "recovering", "a wait does not outlast the recovery: {}", waited.text);
    // The journal restores the long lease unchanged before anything is granted.
    eventually(async || clients[1].get("/v1/locks/long").await.json["held"] == true).await;
    let holder = clients[1].get("/v1/locks/long").await.json["holder"].clone();
    assert_eq!((&holder["owner"], &holder["note"]), (&"ana".into(), &"of long standing".into()), "{holder}");
    assert_eq!(holder["fencing_token"], long.json["fencing_token"]);
    let renewed = clients[1].get("/v1/heartbeat/long?lease=1h&owner=ana").await;
    assert_eq!(renewed.json["fencing_token"], long.json["fencing_token"], "{}", renewed.text);

    let took = wait_until_open(&clients[0], emptied).await;
    assert!(took >= RECOVERY, "{took:?}");
    let again = clients[0].get("/v1/acquire/released?lease=1s").await;
    assert_eq!(again.json["response"], true, "a released lock is not restored: {}", again.text);
    assert!(again.json["fencing_token"].as_u64() > released.json["fencing_token"].as_u64());
    assert_eq!(reason(&clients[0], "/v1/acquire/long").await, "held");
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_renew_during_the_recovery_after_a_restart_with_data() {
    let redis = RedisServer::builder().args(&["--appendonly", "yes"]);
    let mut cluster = Cluster::start_with(1, redis, &[("LOCKABLE_JOURNAL_ABOVE", "1s")]).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    let grant = client.get("/v1/acquire/kept?lease=1h&owner=ana").await;
    let renewal = format!("/v1/heartbeat/kept?lease=1h&owner=ana&fencing_token={}", grant.json["fencing_token"]);
    let unproven = client.get("/v1/acquire/unproven?lease=1h&owner=ana").await;
    let silent = client.get("/v1/acquire/silent?lease=1h&owner=ana").await;
    let acquired_at = async || client.get("/v1/locks/silent").await.json["holder"]["acquired_at"].clone();
    let first_acquired_at = acquired_at().await;
    cluster.redis.restart();
    eventually(async || client.get(&renewal).await.json["response"] == true).await;
    assert_eq!(client.get(&renewal).await.json["response"], true);
    assert_eq!(client.get("/v1/heartbeat/unproven?lease=1h&owner=ana").await.json["response"], true);
    assert_eq!(reason(&client, "/v1/acquire/other").await, "recovering");
    // A repeated acquire is not confirmed: its owner may have released the lock, and Redis may have
    // lost that.
    assert_eq!(reason(&client, "/v1/acquire/kept?owner=ana").await, "recovering");
    let waiter = tokio::spawn({
        let client = client.clone();
        async move { client.get("/v1/acquire/other?wait=30s&lease=1s").await }
    });
    wait_until_open(&client, Instant::now()).await;
    assert_eq!(waiter.await.unwrap().json["response"], true, "the request stayed in the queue");
    for _ in 0..2 {
        let again = client.get("/v1/acquire/kept?lease=1h&owner=ana").await;
        assert_eq!(
            again.json["fencing_token"], grant.json["fencing_token"],
            "its holder has renewed it: {}",
            again.text
        );
        client.get(&renewal).await;
    }
    // A heartbeat without the token may mean another grant, whose loss it does not notice.
    let again = client.get("/v1/acquire/unproven?lease=1h&owner=ana").await;
    assert!(again.json["fencing_token"].as_u64() > unproven.json["fencing_token"].as_u64(), "{}", again.text);
    let again = client.get("/v1/acquire/silent?lease=1h&owner=ana").await;
    assert!(again.json["fencing_token"].as_u64() > silent.json["fencing_token"].as_u64(), "{}", again.text);
    assert_eq!(acquired_at().await, first_acquired_at, "the lock was held without interruption");
    assert_eq!(client.get("/v1/release/kept?owner=ana").await.json["response"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_servers_start_one_recovery_and_a_first_start_needs_none() {
    let (redis, postgres) = (RedisServer::start(), Postgres::database().await);
    let builder = || {
        let pod = Pod::builder().redis(&redis).database(&postgres.url);
        pod.env("LOCKABLE_JOURNAL_ABOVE", "1s")
    };
    let pods = futures_util::future::join_all((0..10).map(|_| builder().start())).await;
    let token = pods[0].account("business").await.token;
    for pod in &pods {
        let granted = pod.client(&token).get("/v1/acquire/first?owner=one").await;
        assert_eq!(granted.json["response"], true, "{}", granted.text);
    }
    redis.cli(&["FLUSHALL"]);
    let states =
        async || futures_util::future::join_all(pods.iter().map(async |pod| pod.admin().get("/readyz").await)).await;
    eventually(async || states().await.iter().all(|ready| ready.json["locks"] == "recovering")).await;
    for ready in states().await {
        assert_eq!(ready.status, 200, "heartbeats and releases must be routed: {}", ready.text);
        assert!(ready.json["recovering_ms"].as_u64().unwrap() <= RECOVERY.as_millis() as u64, "{}", ready.text);
    }
    eventually(async || states().await.iter().all(|ready| ready.json["locks"] == "ok")).await;
    let mut begun = 0;
    for pod in &pods {
        let metrics = pod.admin().get("/metrics").await.text;
        let value = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        begun += value("lockable_recoveries_total ").unwrap();
        assert_eq!(value("lockable_recovering "), Some(0));
    }
    assert_eq!(begun, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_locks_survive_a_clean_restart() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("test.db").display());
    let start = async || Pod::builder().database(&database).env("LOCKABLE_JOURNAL_ABOVE", "2s").start().await;
    let mut pod = start().await;
    let token = pod.first_token();
    // A stop before the first grant is clean, too.
    assert_eq!(pod.stop().await, Some(0));
    pod = start().await;
    let mut client = pod.client(&token);
    let long = client.get("/v1/acquire/long?lease=1h&owner=ana").await.json["fencing_token"].clone();
    let short = client.get("/v1/acquire/short?lease=2s&owner=bob").await.json["fencing_token"].clone();
    assert_eq!(pod.stop().await, Some(0));

    pod = start().await;
    client = pod.client(&token);
    assert_eq!(reason(&client, "/v1/acquire/long").await, "held");
    assert_eq!(client.get("/v1/heartbeat/short?lease=2s&owner=bob").await.json["fencing_token"], short);
    let again = client.get("/v1/acquire/long?lease=1h&owner=ana").await;
    assert_eq!(again.json["fencing_token"], long, "nothing was lost: {}", again.text);
    let next = client.get("/v1/acquire/next?lease=2s").await;
    assert!(next.json["fencing_token"].as_u64() > short.as_u64(), "no recovery is needed: {}", next.text);

    // A killed server loses the short lease, which expires before anything is granted.
    pod.kill();
    let killed = Instant::now();
    pod = start().await;
    client = pod.client(&token);
    assert_eq!(client.get("/v1/heartbeat/long?lease=1h&owner=ana").await.json["fencing_token"], long);
    assert_eq!(reason(&client, "/v1/acquire/next?lease=1s").await, "recovering");
    assert_eq!((readiness(&pod).await, pod.metric("lockable_recovering").await), ("recovering".into(), Some(1.0)));
    let took = wait_until_open(&client, killed).await;
    eventually(async || readiness(&pod).await == "ok" && pod.metric("lockable_recovering").await == Some(0.0)).await;
    assert!(took >= Duration::from_secs(7), "{took:?}");
    assert_eq!(client.get("/v1/acquire/next?lease=1s").await.json["response"], true);
    drop(pod);
}

/// Leases expire early when the store's clock is set forward, and fences could decrease when it is
/// set back.
async fn assert_clock_jumps_start_recoveries(pod: &Pod, clock: &FakeClock) {
    let client = pod.client(&pod.first_token());
    let mut fence = 0;
    for jump in ["none", "forward", "back"] {
        match jump {
            "forward" => clock.advance(3_600_000_000),
            "back" => clock.set_back(7_200_000_000),
            _ => {}
        }
        if jump != "none" {
            let since = Instant::now();
            eventually(async || reason(&client, "/v1/acquire/any?lease=1s").await == "recovering").await;
            wait_until_open(&client, since).await;
        }
        let next = client.get("/v1/acquire/any?lease=1s").await.json["fencing_token"].as_u64().unwrap();
        assert!(next > fence, "{jump}: {next}, {fence}");
        fence = next;
        assert_eq!(client.get("/v1/release/any").await.json["response"], true);
    }
    assert_eq!(pod.log().matches("has jumped").count(), 2, "{}", pod.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jump_starts_a_recovery() {
    let (redis, clock) = RedisServer::builder().start_with_clock(0);
    let pod = Pod::builder().redis(&redis).env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await;
    assert_clock_jumps_start_recoveries(&pod, &clock).await;
}

/// A primary without replicas changes its replication ID after a while. That is no data loss and
/// must not start a recovery.
#[tokio::test(flavor = "multi_thread")]
async fn changed_replication_id_starts_no_recovery() {
    let redis = RedisServer::builder().args(&["--repl-backlog-ttl", "1"]).start();
    let pod = Pod::builder().redis(&redis).env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await;
    let client = pod.client(&pod.first_token());
    let history = || {
        let info = redis.cli(&["INFO", "replication"]);
        info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap().trim().to_owned()
    };
    let primary = || redis.cli(&["GET", "lockable:1:{0}:primary:"]);
    let replica = RedisServer::builder().replica_of(&redis).start();
    eventually(async || redis.cli(&["INFO", "replication"]).contains("state=online")).await;
    eventually(async || primary().contains(&history())).await;
    let (before, epoch) = (history(), primary().trim().rsplit_once(' ').unwrap().1.to_owned());
    drop(replica);
    eventually(async || history() != before).await;
    let renamed = || primary().contains(&history());
    while !renamed() {
        assert_ne!(reason(&client, "/v1/acquire/any?lease=1s&owner=ana").await, "recovering");
    }
    assert_eq!(primary().trim().rsplit_once(' ').unwrap().1, epoch, "the epoch is unchanged");
    assert_eq!(client.get("/v1/acquire/any?lease=1s&owner=ana").await.json["response"], true);
}
