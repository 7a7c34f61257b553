//! One database belongs to one store. A server with another Redis, database number or prefix, or
//! with older data, grants nothing, and its effects heal by themselves.

use std::time::{Duration, Instant};

use super::{RECOVERY, reason, wait_until_open};
use crate::support::{
    Cluster, Pod, eventually, pod, postgres::Postgres, proxy::Proxy, redis::RedisServer, topology::RedisCluster,
};

fn pod_at(redis_url: &str, database: &str) -> pod::Builder {
    let pod = Pod::builder().env("LOCKABLE_REDIS_URL", redis_url).database(database);
    pod.env("LOCKABLE_JOURNAL_ABOVE", "1s")
}

/// Returns whether a server reports that the database names another store.
async fn is_foreign(pod: &Pod) -> bool {
    let ready = pod.admin().get("/readyz").await;
    ready.status == 503 && ready.json["locks"] == "foreign"
}

/// Starts a server that detects only after its start that its Redis is foreign.
async fn start_foreign(redis: &RedisServer, database: &str) -> (Pod, Proxy) {
    let proxy = Proxy::start(redis.port()).await;
    proxy.refuse();
    let foreign = pod_at(&proxy.url(), database).start().await;
    proxy.pass();
    (foreign, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_a_foreign_store_refuses_to_start() {
    let cluster = Cluster::start_with_short_recovery(1).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    let (other, spread) = (RedisServer::start(), RedisCluster::start().await);
    let redis = cluster.redis.url();
    let database_number = format!("{redis}/1");
    for (url, prefix) in
        [(&*other.url(), "lockable"), (&database_number, "lockable"), (&redis, "another"), (&spread.url(), "lockable")]
    {
        let foreign = pod_at(url, &cluster.postgres.url).env("LOCKABLE_REDIS_PREFIX", prefix);
        let (code, complaint) = foreign.expect_refusal().await;
        assert_eq!(code, Some(1), "{url} {prefix}: {complaint}");
        assert!(complaint.contains("keep the locks in another store"), "{url} {prefix}: {complaint}");
        let granted = client.get("/v1/acquire/any?lease=1h&owner=ana").await;
        assert_eq!(granted.json["response"], true, "{url} {prefix}: {}", granted.text);
    }
}

/// The state while the Redis URL is changed on one server after another.
#[tokio::test(flavor = "multi_thread")]
async fn servers_with_a_foreign_redis_grant_nothing_and_leave_others_undisturbed() {
    let cluster = Cluster::start_with_short_recovery(1).await;
    let other = RedisServer::start();
    let (mut foreign, _proxy) = start_foreign(&other, &cluster.postgres.url).await;
    let ours = cluster.pods[0].client(&cluster.account("business").await.token);
    let theirs = ours.with_origin(&foreign.origin());
    eventually(async || is_foreign(&foreign).await).await;
    assert_eq!(foreign.metric("lockable_store_foreign").await, Some(1.0));
    assert!(foreign.log().contains("the database names another store"), "{}", foreign.log());
    for name in 0..40 {
        let granted = ours.get(&format!("/v1/acquire/both-{name}?lease=1h&owner=ana")).await;
        assert_eq!(granted.json["response"], true, "{}", granted.text);
        let refused = theirs.get(&format!("/v1/acquire/both-{name}?lease=1h&owner=bob")).await;
        assert_ne!(refused.json["response"], true, "{}", refused.text);
    }
    theirs.get("/v1/release/both-0?owner=ana").await.assert_problem(503, "unavailable");
    theirs.get("/v1/heartbeat/both-0?owner=ana").await.assert_problem(503, "unavailable");
    assert_eq!(cluster.pods[0].metric("lockable_store_foreign").await, Some(0.0));
    // When the other servers are gone, this one takes over, after it waited for their grants.
    drop(cluster.pods);
    let gone = Instant::now();
    eventually(async || theirs.get("/v1/locks/both-0").await.json["held"] == true).await;
    // Restored grants are confirmed once all are restored.
    eventually(async || theirs.get("/v1/heartbeat/both-0?lease=1h&owner=ana").await.json["response"] == true).await;
    assert!(wait_until_open(&theirs, gone).await >= RECOVERY);
    assert_eq!(reason(&theirs, "/v1/acquire/both-1?owner=bob").await, "held");
    assert_eq!(foreign.stop().await, Some(0));
}

/// A foreign server displaces servers that were paused while it started.
#[tokio::test(flavor = "multi_thread")]
async fn displaced_servers_grant_nothing_until_a_recovery() {
    let mut cluster = Cluster::start_with_short_recovery(1).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    let long = client.get("/v1/acquire/long?lease=1h&owner=ana").await;
    assert_eq!(long.json["response"], true, "{}", long.text);
    assert_eq!(client.get("/v1/acquire/short?lease=1s&owner=ana").await.json["response"], true);
    cluster.pods[0].pause();
    let other = RedisServer::start();
    let foreign = pod_at(&other.url(), &cluster.postgres.url).start().await;
    let theirs = client.with_origin(&foreign.origin());
    wait_until_open(&theirs, Instant::now()).await;
    assert_eq!(theirs.get("/v1/acquire/short?lease=30s&owner=bob").await.json["response"], true);
    assert_eq!(reason(&theirs, "/v1/acquire/long?owner=bob").await, "held", "the journal restored it");

    cluster.pods[0].resume();
    for _ in 0..20 {
        client.get("/v1/acquire/short?lease=1s&owner=ana").await.assert_problem(503, "unavailable");
        client.get("/v1/heartbeat/long?lease=1h&owner=ana").await.assert_problem(503, "unavailable");
    }
    assert!(is_foreign(&cluster.pods[0]).await);
    assert_eq!(theirs.get("/v1/release/long?owner=ana").await.json["response"], true);
    let ended = "SELECT count(*) FROM journal WHERE ended_at IS NOT NULL";
    eventually(async || cluster.postgres.query(ended).unwrap().trim() == "1").await;
    drop(foreign);
    wait_until_open(&client, Instant::now()).await;
    assert_eq!(cluster.pods[0].metric("lockable_store_foreign").await, Some(0.0));
    // The journal knows the release in the other store, and bob's lease there.
    let again = client.get("/v1/acquire/long?lease=1h&owner=bob").await;
    assert_eq!(again.json["response"], true, "{}", again.text);
    assert!(again.json["fencing_token"].as_u64() > long.json["fencing_token"].as_u64(), "{}", again.text);
    assert_eq!(reason(&client, "/v1/acquire/short?owner=ana").await, "held");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_publishes_its_journal_threshold_before_it_grants() {
    let cluster = Cluster::start_with_short_recovery(1).await;
    let token = cluster.account("business").await.token;
    let proxy = Proxy::start(cluster.redis.port()).await;
    proxy.refuse();
    let late = Pod::builder().env("LOCKABLE_REDIS_URL", &proxy.url()).database(&cluster.postgres.url).start().await;
    let short_ms = || cluster.postgres.query("SELECT short_ms FROM stores").unwrap().trim().to_owned();
    assert_eq!(short_ms(), "1000");
    proxy.pass();
    let client = late.client(&token);
    eventually(async || client.get("/v1/acquire/late?lease=50s&owner=ana").await.json["response"] == true).await;
    assert_eq!(short_ms(), "60000");
    cluster.redis.cli(&["FLUSHALL"]);
    let refused = client.get("/v1/acquire/late?owner=bob&lease=1s").await;
    assert_eq!(refused.json["reason"], "recovering", "{}", refused.text);
    eventually(async || client.get("/v1/acquire/late?owner=bob").await.json["retry_after_ms"].as_u64() > Some(50_000))
        .await;
}

/// Redis stores that it was in use.
#[tokio::test(flavor = "multi_thread")]
async fn empty_database_with_a_used_redis_starts_a_recovery() {
    let redis = RedisServer::builder().args(&["--appendonly", "yes"]);
    let mut cluster = Cluster::start_with(1, redis, &[("LOCKABLE_JOURNAL_ABOVE", "1s")]).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    assert_eq!(client.get("/v1/acquire/any?lease=1s").await.json["response"], true);
    cluster.pods[0].kill();
    cluster.redis.restart();
    cluster.postgres.query("DELETE FROM stores; DELETE FROM journal").unwrap();
    let started = Instant::now();
    let pod = pod_at(&cluster.redis.url(), &cluster.postgres.url).start().await;
    assert!(wait_until_open(&client.with_origin(&pod.origin()), started).await + Duration::from_secs(1) >= RECOVERY);
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_move_to_another_redis_after_all_servers_stop() {
    let mut cluster = Cluster::start_with_short_recovery(2).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    let long = client.get("/v1/acquire/long?lease=1h&owner=ana").await.json["fencing_token"].clone();
    for pod in &mut cluster.pods {
        assert_eq!(pod.stop().await, Some(0));
    }
    let stopped = Instant::now();
    let other = RedisServer::start();
    let pod = pod_at(&other.url(), &cluster.postgres.url).start().await;
    let client = client.with_origin(&pod.origin());
    assert!(wait_until_open(&client, stopped).await >= RECOVERY);
    assert_eq!(client.get("/v1/heartbeat/long?lease=1h&owner=ana").await.json["fencing_token"], long);
    let next = client.get("/v1/acquire/next?lease=1s").await.json["fencing_token"].as_u64();
    assert!(next > long.as_u64(), "{next:?} {long}");
    // A server cannot return to the former Redis by mistake.
    let (_, complaint) = pod_at(&cluster.redis.url(), &cluster.postgres.url).expect_refusal().await;
    assert!(complaint.contains("keep the locks in another store"), "{complaint}");
}

/// As after a restore of the machine or its disk.
#[tokio::test(flavor = "multi_thread")]
async fn reload_of_older_data_starts_a_recovery() {
    let redis = RedisServer::builder().args(&["--enable-debug-command", "yes"]).start();
    let postgres = Postgres::database().await;
    let pod = pod_at(&redis.url(), &postgres.url).start().await;
    let client = pod.client(&pod.account("business").await.token);
    assert_eq!(client.get("/v1/acquire/before?lease=1s").await.json["response"], true);
    redis.cli(&["SAVE"]);
    assert_eq!(client.get("/v1/acquire/after?lease=1h&owner=ana").await.json["response"], true);
    redis.cli(&["DEBUG", "RELOAD", "NOSAVE"]);
    let lost = Instant::now();
    eventually(async || pod.log().contains("the data was rolled back")).await;
    assert!(wait_until_open(&client, lost).await + Duration::from_secs(1) >= RECOVERY);
    assert_eq!(reason(&client, "/v1/acquire/after?lease=1s&owner=bob").await, "held");
}
