//! Pages and files of one account do not delay other accounts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{id_of, insert_tokens};
use crate::{
    pages::open_cluster,
    support::{Client, Cluster, Pod, eventually, exclusive_cpu, page::PageClient},
};

/// Appends rows to the audit log of an account.
fn insert_rows(cluster: &Cluster, account: &str, action: &str, count: u32, detail_chars: u32) {
    let insert = format!(
        "INSERT INTO audit SELECT '{action}' || LPAD(n::text, 12, '0'), (EXTRACT(EPOCH FROM now()) * 1000)::BIGINT + n, \
         '{account}', 'operator', '{action}', '{{\"text\":\"' || REPEAT('x', {detail_chars}) || '\"}}' \
         FROM generate_series(1, {count}) AS n"
    );
    cluster.postgres.query(&insert).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_file_is_streamed_and_limited_to_two_at_once() {
    let cluster = open_cluster().await;
    let mut ana = PageClient::member(&cluster.pods[0].origin(), "ana@example.com").await;
    let id = id_of(&cluster, "ana@example.com").await;
    insert_rows(&cluster, &id, "lock.break", 12_000, 2_000);
    let path = "/account/audit.csv?kind=lock.";
    let file = ana.get(path).await;
    assert_eq!((file.text.lines().count(), file.text.lines().next()), (10_001, Some("time,action,by,detail")));
    let last = ana.get("/account/audit.csv?kind=session.").await;
    assert_eq!(last.text, "time,action,by,detail\n", "no row of this kind");

    // The client reads neither of these.
    let mut first = ana.stream(path).await;
    let second = ana.stream(path).await;
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    let third = ana.get_once(path).await;
    assert_eq!((third.status, third.header("retry-after").is_some()), (429, true));
    assert!(first.chunk().await.unwrap().is_some());
    assert_eq!(ana.get("/account/audit").await.status, 200, "pages are unaffected");
    drop((first, second));
    eventually(async || ana.get_once(path).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rare_audit_rows_are_found_page_by_page() {
    let cluster = open_cluster().await;
    let mut ana = PageClient::member(&cluster.pods[0].origin(), "ana@example.com").await;
    ana.token("rare", &["lock"]).await;
    insert_rows(&cluster, &id_of(&cluster, "ana@example.com").await, "lock.break", 9_000, 10);
    let (mut pages, mut path) = (0, "/account/audit?kind=token.".to_owned());
    let found = loop {
        let page = ana.get(&path).await;
        pages += 1;
        if page.text.contains("token.create") {
            break page;
        }
        let before = page.between("<a href=\"/account/audit?kind=token.&#38;before=", "\"");
        path = format!("/account/audit?kind=token.&before={before}");
    };
    assert_eq!(pages, 3, "a page reads a part of a long log");
    assert!(!found.text.contains("Older"), "{}", found.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_server_serves_the_same_pages() {
    let pod = Pod::builder().env("LOCKABLE_SIGN_UP", "true").start().await;
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let tokens = [ana.token("one", &["lock"]).await, ana.token("two", &["lock"]).await];
    let page = ana.get("/account/tokens").await;
    page.assert_shows(200, &["Active tokens: 2 of 10", "one", "two"]);
    let id = page.between("/account/tokens/", "/rotate").to_owned();
    let after = ana.get(&format!("/account/tokens?after={id}")).await;
    after.assert_shows(200, &["two", "First page"]);
    assert!(!after.text.contains(">one<"));
    assert_eq!(ana.send(&format!("/account/tokens/{id}/rotate"), &[("old", "hour")]).await.status, 200);
    assert_eq!(ana.send(&format!("/account/tokens/{id}/revoke"), &[]).await.status, 303);
    eventually(async || pod.client(&tokens[0]).get("/v1/account").await.status == 401).await;
    ana.get("/account/audit?kind=token.").await.assert_shows(200, &["token.rotate", "token.revoke", "token.create"]);
    let file = ana.get("/account/audit.csv?kind=token.").await;
    assert_eq!(file.text.lines().count(), 6, "{}", file.text);
    ana.get("/account/security/delete").await.assert_shows(200, &["active tokens: 2"]);
}

/// Returns the response times of heartbeats while `pages` are loaded, sorted.
async fn heartbeats(client: &Client, ana: &PageClient, pages: &'static [&'static str]) -> Vec<Duration> {
    let stop = Arc::new(AtomicBool::new(false));
    let asking = pages.iter().map(|path| {
        let (ana, stop) = (ana.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                ana.stream(path).await.bytes().await.unwrap();
            }
        })
    });
    let asking: Vec<_> = asking.collect();
    let begun = Instant::now();
    let mut took = Vec::new();
    while begun.elapsed() < Duration::from_secs(4) {
        let sent = Instant::now();
        assert_eq!(client.get("/v1/heartbeat/mine").await.json["response"], true);
        took.push(sent.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    for asking in asking {
        asking.await.unwrap();
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_stay_fast_while_others_load_long_lists() {
    let _cpu = exclusive_cpu().await;
    let settings = [("LOCKABLE_SIGN_UP", "true"), ("LOCKABLE_WORKERS", "1")];
    let cluster = Cluster::start_with(1, crate::support::redis::RedisServer::builder(), &settings).await;
    let pod = &cluster.pods[0];
    let ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let id = id_of(&cluster, "ana@example.com").await;
    insert_tokens(&cluster, &id, "old", 20_000, "n");
    insert_rows(&cluster, &id, "lock.break", 10_000, 300);
    let client = pod.client(&cluster.account("business").await.token);
    assert_eq!(client.get("/v1/acquire/mine").await.json["response"], true);

    let tokens = heartbeats(&client, &ana, &["/account/tokens"; 5]).await;
    let files = heartbeats(&client, &ana, &["/account/audit.csv"; 5]).await;
    let at = |took: &[Duration], part: usize| took[took.len() * part / 100];
    println!("tokens {:?} {:?}, files {:?} {:?}", at(&tokens, 50), at(&tokens, 99), at(&files, 50), at(&files, 99));
    for took in [tokens, files] {
        assert!(at(&took, 50) < Duration::from_millis(30), "half of the heartbeats took {:?}", at(&took, 50));
        assert!(at(&took, 99) < Duration::from_millis(400), "one in a hundred took {:?}", at(&took, 99));
    }
}
