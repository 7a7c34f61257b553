//! Queued requests whose token is revoked or whose account is suspended.

use std::time::Instant;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use super::SOON;
use crate::support::{Account, Client, Cluster, Pod, Response, eventually};

/// A server on each kind of store: embedded, and on Redis with a second server.
struct Stores {
    embedded: Pod,
    cluster: Cluster,
}

impl Stores {
    async fn start() -> Self {
        Self { embedded: Pod::start().await, cluster: Cluster::start(2).await }
    }

    fn pods(&self) -> [&Pod; 2] {
        [&self.embedded, &self.cluster.pods[1]]
    }
}

/// Returns the number of queued requests of a lock.
async fn queued(client: &Client, name: &str) -> u64 {
    client.get(&format!("/v1/locks/{name}")).await.json["waiting"].as_u64().unwrap()
}

/// Queues a request for a lock of another account. Returns that account's client and the request.
async fn queue(pod: &Pod, token: &str, name: &str) -> (Client, JoinHandle<Response>) {
    let holder = pod.client(&pod.account("business").await.token);
    assert_eq!(holder.get(&format!("/v1/acquire/{name}")).await.json["response"], true);
    let waiter = pod.client(token);
    let path = format!("/v1/acquire/{name}?wait=40s&lease=24h");
    let waiting = tokio::spawn(async move { waiter.get(&path).await });
    eventually(async || queued(&holder, name).await == 1).await;
    (holder, waiting)
}

async fn suspend(pod: &Pod, account: &Account) {
    pod.operator(&["account", "suspend", &account.email]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_request_ends_when_its_token_is_revoked() {
    let stores = Stores::start().await;
    for pod in stores.pods() {
        let account = pod.account("business").await;
        let made = pod.operator(&["token", "create", "--account", &account.email]).await;
        let (holder, waiting) = queue(pod, made["token"].as_str().unwrap(), "x").await;
        // The revocation of another token has no effect.
        let other = pod.operator(&["token", "create", "--account", &account.email]).await;
        pod.operator(&["token", "revoke", other["id"].as_str().unwrap()]).await;
        pod.wait_for_changes().await;
        assert_eq!(queued(&holder, "x").await, 1);

        pod.operator(&["token", "revoke", made["id"].as_str().unwrap()]).await;
        let revoked = Instant::now();
        waiting.await.unwrap().assert_problem(401, "unauthenticated");
        eventually(async || queued(&holder, "x").await == 0).await;
        assert!(revoked.elapsed() < SOON, "{:?}", revoked.elapsed());
        holder.get("/v1/release/x").await;
        assert_eq!(holder.get("/v1/locks/x").await.json["held"], false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_request_ends_when_its_account_is_suspended() {
    let stores = Stores::start().await;
    for pod in stores.pods() {
        let account = pod.account("business").await;
        let (holder, waiting) = queue(pod, &account.token, "x").await;
        suspend(pod, &account).await;
        let suspended = Instant::now();
        waiting.await.unwrap().assert_problem(403, "account-suspended");
        eventually(async || queued(&holder, "x").await == 0).await;
        assert!(suspended.elapsed() < SOON, "{:?}", suspended.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_request_ends_when_its_token_expires() {
    let stores = Stores::start().await;
    let postgres = &stores.cluster.postgres;
    let pod = &stores.cluster.pods[1];
    let account = pod.account("business").await;
    let soon = jiff::Timestamp::now().as_millisecond() + 2_000;
    postgres
        .query(&format!(
            "UPDATE tokens SET expires_at = {soon} WHERE account = (SELECT id FROM accounts WHERE email = '{}')",
            account.email
        ))
        .unwrap();
    let (_, waiting) = queue(pod, &account.token, "x").await;
    waiting.await.unwrap().assert_problem(401, "unauthenticated");
    assert!(jiff::Timestamp::now().as_millisecond() < soon + SOON.as_millis() as i64);
}

/// The store hands the lock over while the server still loads the change of the account.
#[tokio::test(flavor = "multi_thread")]
async fn grant_to_suspended_account_is_reverted() {
    let cluster = Cluster::start(2).await;
    let pod = &cluster.pods[1];
    let account = pod.account("business").await;
    let (holder, waiting) = queue(pod, &account.token, "x").await;
    // The holder's token is cached.
    pod.wait_for_changes().await;
    assert_eq!(queued(&holder, "x").await, 1);
    let slow = cluster.postgres.lock_table("namespaces", "ACCESS EXCLUSIVE").await;
    suspend(pod, &account).await;
    eventually(async || cluster.postgres.lock_waiters("SELECT id, name FROM namespaces") > 0).await;
    assert_eq!(holder.get("/v1/release/x").await.json["response"], true);
    eventually(async || holder.get("/v1/locks/x").await.json["held"] == true).await;
    slow.end();
    waiting.await.unwrap().assert_problem(403, "account-suspended");
    eventually(async || holder.get("/v1/locks/x").await.json["held"] == false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_is_authorized_again_after_a_slow_body() {
    let pod = Pod::start().await;
    let account = pod.account("business").await;
    let client = pod.client(&account.token);
    assert_eq!(client.get("/v1/acquire/held?lease=1m").await.json["response"], true);
    let mut requests = Vec::new();
    for operation in ["acquire/free", "heartbeat/held"] {
        let mut stream = TcpStream::connect(pod.authority("127.0.0.1")).await.unwrap();
        let head = format!(
            "POST /v1/{operation} HTTP/1.1\r\nHost: test\r\nAuthorization: {}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n",
            client.authorization()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        requests.push(stream);
    }
    suspend(&pod, &account).await;
    pod.wait_for_changes().await;
    for mut stream in requests {
        stream.write_all(b"lease=24h").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("account-suspended"), "{answer}");
    }
}
