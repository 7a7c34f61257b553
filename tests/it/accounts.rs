//! Tokens and account commands while Redis or the database is full, unreachable or at a newer
//! version.

use std::time::{Duration, Instant};

use crate::support::{
    Cluster, Pod, cluster::DEFAULT_REDIS_TIMEOUT, eventually, pod::lockable, postgres::Postgres, redis::RedisServer,
};

#[tokio::test(flavor = "multi_thread")]
async fn token_is_revoked_within_a_second_while_redis_is_full() {
    let cluster = Cluster::start(2).await;
    let account = cluster.account("business").await;
    let clients: Vec<_> = cluster.pods.iter().map(|pod| pod.client(&account.token)).collect();
    for client in &clients {
        assert_eq!(client.get("/v1/heartbeat/full").await.json["reason"], "not_held");
    }
    let tokens = cluster.operator(&["token", "list", "--account", &account.email]).await;

    cluster.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    cluster.operator(&["token", "revoke", tokens[0]["id"].as_str().unwrap()]).await;
    let revoked = Instant::now();
    for client in &clients {
        eventually(async || client.get("/v1/heartbeat/full").await.status == 401).await;
    }
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn uncached_token_returns_503_within_a_second_while_redis_hangs() {
    let cluster = Cluster::start_with(1, RedisServer::builder(), &[DEFAULT_REDIS_TIMEOUT]).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    cluster.redis.pause();
    let asked = Instant::now();
    client.get("/v1/acquire/hanging").await.assert_problem(503, "unavailable");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    cluster.redis.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_record_token_use_on_postgres() {
    let mut cluster = Cluster::start(2).await;
    let account = cluster.account("business").await;
    let email = account.email.clone();
    for n in 0..5 {
        let made = cluster.operator(&["token", "create", "--account", &email, "--label", &n.to_string()]).await;
        for pod in &cluster.pods {
            let answer = pod.client(made["token"].as_str().unwrap()).get("/v1/heartbeat/x").await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }
    assert_eq!(cluster.pods[0].client(&account.token).get("/v1/heartbeat/x").await.status, 200);
    let stopping = cluster.pods.iter_mut().map(Pod::stop);
    assert_eq!(futures_util::future::join_all(stopping).await, [Some(0), Some(0)]);
    let unnoted = cluster.postgres.query("SELECT count(*) FROM tokens WHERE last_used_hour IS NULL").unwrap();
    assert_eq!(unnoted.trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_starts_on_a_database_of_a_newer_version() {
    let (redis, postgres) = (RedisServer::start(), Postgres::database().await);
    let migrate = || lockable(&["migrate"]).env("LOCKABLE_DATABASE_URL", &postgres.url).output();
    assert!(migrate().await.unwrap().status.success());
    let newer =
        "INSERT INTO _sqlx_migrations SELECT 9999, 'newer', now(), true, checksum, 0 FROM _sqlx_migrations LIMIT 1";
    postgres.query(newer).unwrap();
    let pod = Pod::builder().redis(&redis).database(&postgres.url).start().await;
    assert_eq!(pod.client_without_token().get("/v1/acquire/x").await.status, 401);
}

#[tokio::test]
async fn unusable_database_is_reported_in_one_line() {
    for (url, words) in [
        ("postgres://ana:s3cret@127.0.0.1:1/x", "cannot reach the database postgres://ana:***@127.0.0.1:1/x"),
        ("sqlite::memory:", "in memory"),
        ("sqlite:x.db?mode=memory", "in memory"),
    ] {
        let ran = lockable(&["account", "list"]).env("LOCKABLE_DATABASE_URL", url).output().await.unwrap();
        let stderr = String::from_utf8(ran.stderr).unwrap();
        assert_eq!((ran.status.code(), stderr.lines().count()), (Some(1), 1), "{url}: {stderr}");
        assert!(stderr.contains(words), "{url}: {stderr}");
    }
}
