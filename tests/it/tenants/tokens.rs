use super::{id_of, insert_tokens};
use crate::{
    pages::open_cluster,
    support::page::{PageClient, PageResponse},
};

const NEW: [(&str, &str); 3] = [("label", "one more"), ("scope", "lock"), ("namespace", "public")];

/// Returns the ids of the tokens on a page.
fn ids(page: &PageResponse) -> Vec<String> {
    let rows = page.text.split("href=\"/account/tokens/").skip(1);
    rows.map(|row| row.split_once("/rotate").unwrap().0.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn token_creation_is_rate_limited() {
    let cluster = open_cluster().await;
    let mut ana = PageClient::member(&cluster.pods[0].origin(), "ana@example.com").await;
    let csrf = ana.get("/account/security").await.csrf();
    let form = [&[("csrf", &*csrf)], &NEW[..]].concat();
    let mut made = 0;
    let refused = loop {
        match ana.post("/account/tokens", &form).await {
            answer if answer.status == 200 => made += 1,
            answer => break answer,
        }
    };
    refused.assert_shows(429, &["Too many attempts"]);
    // One more token for each minute of this test.
    assert!((20..23).contains(&made), "{made} tokens were made");
    let id = ids(&ana.get("/account/tokens").await).swap_remove(0);
    let rotated = ana.post(&format!("/account/tokens/{id}/rotate"), &[("csrf", &csrf), ("old", "now")]).await;
    rotated.assert_shows(429, &["Too many attempts"]);
    let revoked = ana.post(&format!("/account/tokens/{id}/revoke"), &[("csrf", &csrf)]).await;
    assert_eq!(revoked.status, 303, "a token can be revoked at any time");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_tokens_are_limited_by_the_plan() {
    let cluster = open_cluster().await;
    let mut ana = PageClient::member(&cluster.pods[0].origin(), "ana@example.com").await;
    cluster.operator(&["plan", "set", "business", "--tokens", "2"]).await;
    for _ in 0..2 {
        assert_eq!(ana.send("/account/tokens", &NEW).await.status, 200);
    }
    let refused = ana.send("/account/tokens", &NEW).await;
    refused.assert_shows(400, &["allows 2 active tokens; revoke an unused one"]);
    ana.get("/account/tokens").await.assert_shows(200, &["Active tokens: 2 of 2"]);
    ana.get("/account/plan").await.assert_shows(200, &["Tokens</th><td>2</td><td>2</td>"]);

    // Each token can be rotated, and the former ones work for a while; further rotations cannot add
    // more of these.
    let token = async |ana: &mut PageClient| {
        let page = ana.get("/account/tokens").await;
        let lasting = page.text.split("<tr>").filter(|row| row.contains("/rotate\"") && !row.contains("expires in"));
        lasting.last().unwrap().split_once("/account/tokens/").unwrap().1.split_once('/').unwrap().0.to_owned()
    };
    for _ in 0..2 {
        let id = token(&mut ana).await;
        assert_eq!(ana.send(&format!("/account/tokens/{id}/rotate"), &[("old", "hour")]).await.status, 200);
    }
    let id = token(&mut ana).await;
    let refused = ana.send(&format!("/account/tokens/{id}/rotate"), &[("old", "hour")]).await;
    refused.assert_shows(400, &["2 rotated tokens of the account are still valid"]);
    assert_eq!(ana.send(&format!("/account/tokens/{id}/rotate"), &[("old", "now")]).await.status, 200);
    ana.send("/account/tokens", &NEW).await.assert_shows(400, &["allows 2 active tokens"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn last_hundred_revoked_tokens_are_kept() {
    let cluster = open_cluster().await;
    let mut ana = PageClient::member(&cluster.pods[0].origin(), "ana@example.com").await;
    ana.token("deploy", &["lock"]).await;
    insert_tokens(&cluster, &id_of(&cluster, "ana@example.com").await, "old", 250, "n");
    let [id] = <[String; 1]>::try_from(ids(&ana.get("/account/tokens").await)).unwrap();
    ana.send("/account/tokens", &NEW).await;
    assert_eq!(ana.send(&format!("/account/tokens/{id}/revoke"), &[]).await.status, 303);
    let listed = cluster.operator(&["token", "list", "--account", "ana@example.com"]).await;
    let labels = |is_revoked: bool| {
        let all = listed.as_array().unwrap().iter().filter(|token| token["revoked_at"].is_i64() == is_revoked);
        all.map(|token| token["label"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(labels(false), ["one more"]);
    let revoked = labels(true);
    assert_eq!((revoked.len(), revoked.contains(&"deploy".to_owned())), (100, true));
    assert!(revoked.contains(&"old 250".to_owned()) && !revoked.contains(&"old 100".to_owned()), "{revoked:?}");
    ana.get("/account/audit?kind=token.").await.assert_shows(200, &["token.revoke", &id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_list_is_paged() {
    let cluster = open_cluster().await;
    let mut ana = PageClient::member(&cluster.pods[0].origin(), "ana@example.com").await;
    insert_tokens(&cluster, &id_of(&cluster, "ana@example.com").await, "mine", 120, "NULL");
    let (mut seen, mut path) = (Vec::new(), "/account/tokens".to_owned());
    loop {
        let page = ana.get(&path).await;
        assert!((1..=50).contains(&ids(&page).len()), "{} tokens on one page", ids(&page).len());
        seen.extend(ids(&page));
        page.assert_shows(200, &["Active tokens: 120 of 1000"]);
        if !page.text.contains("Next page") {
            break;
        }
        path = format!("/account/tokens?after={}", page.between("/account/tokens?after=", "\""));
    }
    assert_eq!(seen.len(), 120);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 120, "each is shown once");
}
