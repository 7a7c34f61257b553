//! Live updates of the lock list.

use std::time::Duration;

use tokio::time::timeout;

use super::open_cluster;
use crate::support::{eventually, page::PageClient};

/// Reads the stream until it contains a text. Returns `false` at the end of the stream.
async fn comes(stream: &mut reqwest::Response, part: &str) -> bool {
    let mut seen = String::new();
    while let Ok(Some(chunk)) = stream.chunk().await {
        seen.push_str(&String::from_utf8_lossy(&chunk));
        if seen.contains(part) {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn live_page_receives_changes_until_its_session_ends() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let token = ana.token("job", &["lock"]).await;
    let client = pod.client(&token);
    let mut all = ana.stream("/account/locks/live").await;
    let mut some = ana.stream("/account/locks/live?prefix=b").await;
    assert_eq!(all.headers()["content-type"], "text/event-stream");
    assert!(comes(&mut all, "holds no locks").await && comes(&mut some, "No matching locks").await);
    client.get("/v1/acquire/a-lock?owner=ana").await;
    assert!(comes(&mut all, "a-lock").await);
    client.get("/v1/acquire/b-lock?owner=ana").await;
    assert!(comes(&mut some, "b-lock").await);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.get("/v1/acquire/b-lock?owner=bob&wait=50s").await }
    });
    assert!(comes(&mut some, "bob").await);
    client.get("/v1/release/b-lock?owner=ana").await;
    assert_eq!(waiting.await.unwrap().json["response"], true);
    client.get("/v1/release/b-lock?owner=bob").await;
    assert!(comes(&mut some, "No matching locks").await);

    assert_eq!(ana.send("/account/sign-out", &[]).await.status, 303);
    let ends = timeout(Duration::from_secs(40), comes(&mut all, "text that never comes")).await;
    assert_eq!(ends, Ok(false), "the stream ends soon after the sign-out");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_pages_per_account_are_limited() {
    let cluster = open_cluster().await;
    let origin = cluster.pods[0].origin();
    let mut ana = PageClient::member(&origin, "ana@example.com").await;
    let eve = PageClient::member(&origin, "eve@example.com").await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(ana.stream("/account/locks/live").await);
    }
    assert!(streams.iter().all(|stream| stream.status() == 200));
    let refused = ana.stream("/account/locks/live").await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"30".parse().unwrap()));
    assert_eq!(eve.stream("/account/locks/live").await.status(), 200, "the limit is per account");
    assert_eq!(ana.get("/account/locks").await.status, 200);
    streams.truncate(19);
    eventually(async || ana.stream("/account/locks/live").await.status() == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_server_closes_live_pages() {
    let mut cluster = open_cluster().await;
    let ana = PageClient::member(&cluster.pods[0].origin(), "ana@example.com").await;
    let mut stream = ana.stream("/account/locks/live").await;
    assert!(comes(&mut stream, "holds no locks").await);
    assert_eq!(cluster.pods[0].stop().await, Some(0));
    assert!(!comes(&mut stream, "anything more").await);
    assert!(!cluster.pods[0].log().contains("did not finish in time"), "{}", cluster.pods[0].log());
}
