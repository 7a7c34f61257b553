//! Connections to Redis: authentication, TLS, reconnection.

use std::time::Duration;

use lockable::{
    config::RedisSettings,
    store::{Redis, Script, StartError, Store},
};

use tokio::runtime::Handle;

use crate::support::{Cluster, dev_cert, eventually, redis::RedisServer};

static PUBLISH: Script = Script::new("publish", "return {'published', redis.call('PUBLISH', KEYS[1], ARGV[1])}");
static SET: Script = Script::new("set", "redis.call('SET', KEYS[1], ARGV[1]) return {'set'}");
static ECHO: Script = Script::new("echo", "return {KEYS[1], ARGV[1], 42}");

fn settings(url: &str) -> RedisSettings {
    RedisSettings {
        url: Some(url.parse().unwrap()),
        timeout: Duration::from_millis(500),
        prefix: "test".into(),
        wait_replicas: 0,
        pool_size: 2,
        embedded_memory: u64::MAX,
    }
}

async fn store(url: &str) -> Result<Store, StartError> {
    Redis::start(&settings(url), &[Handle::current()]).await.map(Store::Redis)
}

async fn echoes(store: &Store) -> bool {
    store.eval(&ECHO, &["k"], &["v"]).await.is_ok_and(|reply| reply.text(2).is_ok_and(|word| word == "42"))
}

#[tokio::test]
async fn redis_connects_by_password_database_and_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    let socket = socket.to_str().unwrap();
    let server = RedisServer::builder()
        .args(&["--requirepass", "s3cret", "--unixsocket", socket])
        .args(&["--user", "ana", "on", ">pass", "~*", "&*", "+@all"])
        .start();
    let port = server.port();
    for (url, user, password, database) in [
        (format!("redis://:s3cret@127.0.0.1:{port}"), "default", "s3cret", "0"),
        (format!("redis://ana:pass@127.0.0.1:{port}/3"), "ana", "pass", "3"),
        (format!("redis+unix://{socket}?user=ana&pass=pass&db=2"), "ana", "pass", "2"),
    ] {
        let store = store(&url).await.unwrap();
        store.eval(&SET, &["url"], &[&url]).await.unwrap();
        let found = server.cli(&["--user", user, "--pass", password, "-n", database, "GET", "url"]);
        assert_eq!(found.trim(), url);
    }
    for url in [format!("redis://127.0.0.1:{port}"), format!("redis://ana:wr0ng@127.0.0.1:{port}")] {
        let error = store(&url).await.err().unwrap();
        assert!(matches!(error, StartError::Authentication(_)), "{error}");
        assert!(!error.to_string().contains("wr0ng"), "{error}");
    }
}

#[tokio::test]
async fn redis_connects_over_tls_and_rejects_untrusted_certificates() {
    let certificate = dev_cert().await;
    let (cert, key) = (certificate.cert.to_str().unwrap(), certificate.key.to_str().unwrap());
    let port = crate::support::process::free_port().to_string();
    let tls = ["--tls-port", &port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no"];
    let _server = RedisServer::builder().args(&tls).start();
    let url = format!("rediss://localhost:{port}");
    let other = dev_cert().await;
    for (trusted, status) in [(cert, 200), (other.cert.to_str().unwrap(), 503)] {
        let pod = crate::support::Pod::builder().env("LOCKABLE_REDIS_URL", &url).env("SSL_CERT_FILE", trusted);
        let pod = pod.start().await;
        let client = pod.client(&pod.first_token());
        eventually(async || client.get("/v1/acquire/tls").await.status == status).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_resume_after_a_restart() {
    let mut server = RedisServer::start();
    let store = store(&server.url()).await.unwrap();
    let (mut messages, mut other) = (store.subscribe("messages"), store.subscribe("other"));
    let mut received = async || {
        let _ = store.eval(&PUBLISH, &["messages"], &["hello"]).await;
        tokio::time::timeout(Duration::from_millis(50), messages.recv()).await == Ok(Some("hello".into()))
    };
    eventually(&mut received).await;
    server.restart();
    eventually(&mut received).await;
    assert!(other.try_recv().is_err(), "no message arrived on the other channel");
}

#[tokio::test(flavor = "multi_thread")]
async fn demoted_master_is_left_and_reconnected_when_promoted() {
    let cluster = Cluster::start_with_short_recovery(1).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    assert_eq!(client.get("/v1/acquire/before").await.json["response"], true);

    let primary = RedisServer::start();
    cluster.redis.cli(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    client.get("/v1/acquire/during").await.assert_problem(503, "unavailable");
    cluster.redis.cli(&["REPLICAOF", "NO", "ONE"]);
    eventually(async || client.get("/v1/acquire/after?owner=a").await.json["response"] == true).await;
}

#[tokio::test]
async fn store_connects_once_an_absent_redis_starts() {
    let mut server = RedisServer::start();
    server.stop();
    let store = store(&server.url()).await.unwrap();
    assert!(!echoes(&store).await);
    server.restart();
    eventually(async || echoes(&store).await).await;
}
