//! Tokens, namespaces, the lease, and the end of an account.

use super::open_cluster;
use crate::support::{
    eventually,
    page::{PASSWORD, PageClient},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_what_it_was_made_for_and_can_be_rotated_and_revoked() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    for (fields, complaint) in [
        (vec![("label", ""), ("scope", "lock"), ("namespace", "public")], "The label cannot be used"),
        (vec![("label", "a"), ("namespace", "public")], "choose what it may do"),
        (vec![("label", "a")], "The form has"),
    ] {
        ana.send("/account/tokens", &fields).await.assert_shows(400, &[complaint]);
    }
    let token = ana.token("deploy", &["lock"]).await;
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/a").await.json["response"], true);
    client.request("DELETE", "/v1/locks/a", &[]).await.assert_problem(403, "scope-missing");
    let page = ana.get("/account/tokens").await;
    page.assert_shows(200, &["deploy", "<td data-name=\"May\">lock</td>"]);
    assert!(!page.text.contains(&token), "it is shown once");

    // Rotated, both work for a while, and hold the same locks.
    let id = page.between("/account/tokens/", "/rotate").to_owned();
    let rotated = ana.send(&format!("/account/tokens/{id}/rotate"), &[("old", "hour")]).await;
    rotated.assert_shows(200, &["The one before works until"]);
    let second = rotated.between("class=\"secret\"><code>", "</code>").to_owned();
    for token in [&token, &second] {
        assert_eq!(pod.client(token).get("/v1/heartbeat/a").await.json["response"], true);
    }
    ana.get("/account/tokens").await.assert_shows(200, &["ends in "]);
    // Its hour is over.
    let id = ana.get("/account/tokens").await.between("/account/tokens/", "/rotate").to_owned();
    let soon = "expires_at = (EXTRACT(EPOCH FROM now()) * 1000)::BIGINT + 3000";
    cluster.postgres.query(&format!("UPDATE tokens SET {soon} WHERE expires_at IS NOT NULL")).unwrap();
    cluster.postgres.query("UPDATE accounts SET revision = (SELECT seq + 1 FROM revision)").unwrap();
    cluster.postgres.query("UPDATE revision SET seq = seq + 1").unwrap();
    // Servers keep what they know of it, and know when it ends.
    client.get("/v1/heartbeat/a").await;
    eventually(async || client.get("/v1/heartbeat/a").await.status == 401).await;
    assert_eq!(ana.send(&format!("/account/tokens/{id}/rotate"), &[("old", "now")]).await.status, 404, "it has ended");

    let id = ana.get("/account/tokens").await.between("/account/tokens/", "/rotate").to_owned();
    assert_eq!(ana.send(&format!("/account/tokens/{id}/rotate"), &[("old", "later")]).await.status, 400);
    let third = ana.send(&format!("/account/tokens/{id}/rotate"), &[("old", "now")]).await;
    let third = third.between("class=\"secret\"><code>", "</code>").to_owned();
    eventually(async || pod.client(&second).get("/v1/heartbeat/a").await.status == 401).await;
    assert_eq!(pod.client(&third).get("/v1/heartbeat/a").await.json["response"], true);
    let id = ana.get("/account/tokens").await.between("/account/tokens/", "/rotate").to_owned();
    assert_eq!(ana.send(&format!("/account/tokens/{id}/revoke"), &[]).await.status, 303);
    eventually(async || pod.client(&third).get("/v1/heartbeat/a").await.status == 401).await;
    ana.get("/account/audit?kind=token.").await.assert_shows(200, &["token.rotate", "token.revoke", "token.create"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_come_and_go_when_they_are_empty() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    for (name, complaint) in [("", "namespace"), ("Upper", "namespace"), ("public", "namespace")] {
        ana.send("/account/namespaces", &[("name", name)]).await.assert_shows(400, &[complaint]);
    }
    assert_eq!(ana.send("/account/namespaces", &[("name", "team")]).await.status, 303);
    ana.send("/account/namespaces", &[("name", "team")]).await.assert_shows(400, &["already"]);
    let made = ana.send("/account/tokens", &[("label", "t"), ("scope", "lock"), ("namespace", "team")]).await;
    let token = made.between("class=\"secret\"><code>", "</code>").to_owned();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/inside").await.json["namespace"], "team");
    ana.get("/account/locks?namespace=team").await.assert_shows(200, &["inside"]);
    ana.get("/account/locks?prefix=ins").await.assert_shows(200, &["inside"]);
    assert!(!ana.get("/account/locks?namespace=public").await.text.contains("inside"));
    assert!(!ana.get("/account/locks?prefix=out").await.text.contains("inside"));

    ana.send("/account/namespaces/remove", &[("name", "team")]).await.assert_shows(400, &["Locks are held"]);
    client.get("/v1/release/inside").await;
    ana.send("/account/namespaces/remove", &[("name", "team")]).await.assert_shows(400, &["1 tokens have their locks"]);
    let id = ana.get("/account/tokens").await.between("/account/tokens/", "/rotate").to_owned();
    ana.send(&format!("/account/tokens/{id}/revoke"), &[]).await;
    assert_eq!(ana.send("/account/namespaces/remove", &[("name", "team")]).await.status, 303);
    assert_eq!(ana.get("/account/locks?namespace=team").await.status, 404);

    // What the plan lacks is said, and refused.
    cluster.operator(&["account", "set-plan", "ana@example.com", "hobbyist"]).await;
    ana.get("/account/plan")
        .await
        .assert_shows(200, &["take the plan business", "Another one takes the plan business"]);
    ana.send("/account/namespaces", &[("name", "other")]).await.assert_shows(400, &["no private namespaces"]);
    ana.send("/account/plan/lease", &[("lease", "5m")]).await.assert_shows(400, &["has leases from"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_is_set_and_what_was_done_is_counted() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let token = ana.token("t", &["lock"]).await;
    let client = pod.client(&token);
    assert_eq!(ana.send("/account/plan/lease", &[("lease", "5m")]).await.status, 303);
    eventually(async || client.get("/v1/account").await.json["lease_ms"] == 300_000).await;
    ana.send("/account/plan/lease", &[("lease", "soon")]).await.assert_shows(400, &["This is no lease"]);
    ana.send("/account/plan/lease", &[("lease", "25h")]).await.assert_shows(400, &["has leases from"]);
    assert_eq!(ana.send("/account/plan/lease", &[("lease", "")]).await.status, 303);
    eventually(async || client.get("/v1/account").await.json["lease_ms"] == 60_000).await;

    for expected in [true, false, false] {
        assert_eq!(client.get("/v1/acquire/counted").await.json["response"], expected);
    }
    cluster.operator(&["plan", "set", "business", "--rate", "1", "--burst", "1"]).await;
    eventually(async || client.get("/v1/heartbeat/counted").await.status == 429).await;
    eventually(async || {
        let page = ana.get("/account/plan").await.text;
        page.contains("1 acquired") && page.contains("2 refused") && !page.contains("0 over the rate")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_account_takes_with_it_what_it_says() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let token = ana.token("t", &["lock"]).await;
    ana.send("/account/namespaces", &[("name", "team")]).await;
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/last?lease=1h").await.json["response"], true);
    ana.get("/account/security/delete")
        .await
        .assert_shows(200, &["tokens in force: 1", "it holds: 1", "namespaces: 1"]);
    let wrong = ana.send("/account/security/delete", &[("password", "not the password")]).await;
    wrong.assert_shows(400, &["not the password that the account has"]);
    assert_eq!(client.get("/v1/heartbeat/last").await.json["response"], true);

    assert_eq!(
        ana.send("/account/security/delete", &[("password", PASSWORD)]).await.to(),
        "/account/sign-in?after=deleted"
    );
    assert_eq!(ana.get("/account/locks").await.status, 303);
    eventually(async || client.get("/v1/heartbeat/last").await.status == 401).await;
    assert_eq!(ana.sign_in("ana@example.com", PASSWORD).await.status, 403);
    let other = pod.client(&cluster.account("business").await.token);
    eventually(async || other.get("/v1/acquire/last").await.json["response"] == true).await;
    for table in ["accounts", "tokens", "namespaces", "sessions", "links"] {
        let rows = cluster.postgres.query(&format!("SELECT * FROM {table}")).unwrap();
        assert!(!rows.contains("ana@example.com"), "{table}: {rows}");
    }
    let accounts = cluster.operator(&["account", "list"]).await;
    assert_eq!(accounts.as_array().unwrap().len(), 1, "{accounts}");
    // The address can be used again, by a new account.
    let mut again = PageClient::member(&pod.origin(), "ana@example.com").await;
    assert!(!again.get("/account/audit").await.text.contains("lock.break"));
}
