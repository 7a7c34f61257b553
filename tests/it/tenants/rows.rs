//! The audit log is kept forever: the rows that an account can add are rate-limited.

use super::id_of;
use crate::{
    pages::open_cluster,
    support::page::{PASSWORD, PageClient},
};

#[tokio::test(flavor = "multi_thread")]
async fn breaks_and_changes_are_rate_limited() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let account = cluster.account("business").await;
    let client = pod.client(&account.token);
    let mut broken = 0;
    let refused = loop {
        assert_eq!(client.get("/v1/acquire/mine").await.json["response"], true);
        match client.request("DELETE", "/v1/locks/mine", &[]).await {
            answer if answer.status == 200 => broken += 1,
            answer => break answer,
        }
        assert!(broken < 300, "breaks are not rate-limited");
    };
    refused.assert_problem(429, "too-many-changes");
    assert!((200..260).contains(&broken), "{broken} locks were broken");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() <= 5);
    assert_eq!(client.get("/v1/heartbeat/mine").await.json["response"], true, "the rejected request broke nothing");
    let rows = format!("SELECT COUNT(*) FROM audit WHERE account = '{}'", id_of(&cluster, &account.email).await);
    assert!(cluster.postgres.query(&rows).unwrap().trim().parse::<u32>().unwrap() < broken + 10);

    // Other accounts, and changes by people, are unaffected.
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    assert_eq!(ana.send("/account/plan/lease", &[("lease", "5m")]).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ups_of_others_and_empty_changes_add_few_audit_rows() {
    let cluster = open_cluster().await;
    let origin = cluster.pods[0].origin();
    let mut ana = PageClient::member(&origin, "ana@example.com").await;
    let rows = |action: &str| {
        let count = format!("SELECT COUNT(*) FROM audit WHERE action = '{action}'");
        cluster.postgres.query(&count).unwrap().trim().parse::<u32>().unwrap()
    };
    let mut stranger = PageClient::new(&origin);
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(stranger.sign_up("Ana@example.com", PASSWORD).await.status);
    }
    assert_eq!(statuses, [303, 303, 303, 303, 429, 429], "five sign-ups including the first one");
    assert_eq!(rows("account.sign-up-again"), 4);
    for _ in 0..3 {
        assert_eq!(ana.send("/account/security/sessions", &[("session", "")]).await.status, 303);
    }
    assert_eq!(rows("session.end"), 0, "there was no other session");
}

#[tokio::test(flavor = "multi_thread")]
async fn session_number_101_ends_the_first() {
    let cluster = open_cluster().await;
    let mut ana = PageClient::member(&cluster.pods[0].origin(), "ana@example.com").await;
    let id = id_of(&cluster, "ana@example.com").await;
    let insert = format!(
        "INSERT INTO sessions SELECT 'id' || n, 'hash' || n, '{id}', s.created_at + n, s.seen_at + n, '', '' \
         FROM generate_series(1, 99) AS n, sessions s"
    );
    cluster.postgres.query(&insert).unwrap();
    assert_eq!(ana.get("/account/plan").await.status, 200, "the session is the hundredth");
    let mut again = PageClient::new(&cluster.pods[0].origin());
    assert_eq!(again.sign_in("ana@example.com", PASSWORD).await.status, 303);
    assert_eq!(ana.get("/account/plan").await.redirect_target(), "/account/sign-in?to=%2Faccount%2Fplan");
    assert_eq!(cluster.postgres.query("SELECT COUNT(*) FROM sessions").unwrap().trim(), "100");
}
