//! Locks that are shown while they come and go.

use std::time::Duration;

use tokio::time::timeout;

use super::open_cluster;
use crate::support::{eventually, page::PageClient};

/// Reads on until a text has come, or the end: then `false`.
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
async fn a_page_is_told_of_changes_until_its_session_ends() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let token = ana.token("job", &["lock"]).await;
    let client = pod.client(&token);
    let mut all = ana.stream("/account/locks/live").await;
    let mut some = ana.stream("/account/locks/live?prefix=b").await;
    assert_eq!(all.headers()["content-type"], "text/event-stream");
    assert!(comes(&mut all, "holds no lock").await && comes(&mut some, "holds no such lock").await);
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
    assert!(comes(&mut some, "holds no such lock").await);

    assert_eq!(ana.send("/account/sign-out", &[]).await.status, 303);
    let ends = timeout(Duration::from_secs(40), comes(&mut all, "something for somebody who has signed out")).await;
    assert_eq!(ends, Ok(false), "it ends long before the browser has to ask again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_so_many_live_pages_and_no_more() {
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
    assert_eq!(eve.stream("/account/locks/live").await.status(), 200, "others have places of their own");
    assert_eq!(ana.get("/account/locks").await.status, 200);
    streams.truncate(19);
    eventually(async || ana.stream("/account/locks/live").await.status() == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_does_not_wait_for_those_who_look() {
    let mut cluster = open_cluster().await;
    let ana = PageClient::member(&cluster.pods[0].origin(), "ana@example.com").await;
    let mut stream = ana.stream("/account/locks/live").await;
    assert!(comes(&mut stream, "holds no lock").await);
    assert_eq!(cluster.pods[0].stop().await, Some(0));
    assert!(!comes(&mut stream, "anything more").await);
    assert!(!cluster.pods[0].log().contains("did not finish in time"), "{}", cluster.pods[0].log());
}
