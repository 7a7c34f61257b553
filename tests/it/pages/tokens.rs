//! Tokens, namespaces, the default lease, and the deletion of an account.

use super::open_cluster;
use crate::support::{
    eventually,
    page::{PASSWORD, PageClient},
};

#[tokio::test(flavor = "multi_thread")]
async fn token_is_limited_to_its_scopes_and_can_be_rotated_and_revoked() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    for (fields, complaint) in [
        (vec![("label", ""), ("scope", "lock"), ("namespace", "public")], "Invalid name"),
        (vec![("label", "a"), ("namespace", "public")], "Select at least one scope"),
        (vec![("label", "a")], "The form is invalid"),
    ] {
        ana.send("/account/tokens", &fields).await.assert_shows(400, &[complaint]);
    }
    let token = ana.token("deploy", &["lock"]).await;
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/a").await.json["response"], true);
    client.request("DELETE", "/v1/locks/a", &[]).await.assert_problem(403, "scope-missing");
    let page = ana.get("/account/tokens").await;
    page.assert_shows(200, &["deploy", "<td data-name=\"Scopes\">lock</td>"]);
    assert!(!page.text.contains(&token), "the token is shown once");

    // After a rotation both tokens work for a while and own the same locks.
    let id = page.between("/account/tokens/", "/rotate").to_owned();
    let rotated = ana.send(&format!("/account/tokens/{id}/rotate"), &[("old", "hour")]).await;
    rotated.assert_shows(200, &["The old token expires at"]);
    let second = rotated.between("class=\"secret\"><code>", "</code>").to_owned();
    for token in [&token, &second] {
        assert_eq!(pod.client(token).get("/v1/heartbeat/a").await.json["response"], true);
    }
    ana.get("/account/tokens").await.assert_shows(200, &["expires in "]);
    // The former token expires.
    let id = ana.get("/account/tokens").await.between("/account/tokens/", "/rotate").to_owned();
    let soon = "expires_at = (EXTRACT(EPOCH FROM now()) * 1000)::BIGINT + 3000";
    cluster.postgres.query(&format!("UPDATE tokens SET {soon} WHERE expires_at IS NOT NULL")).unwrap();
    cluster.postgres.query("UPDATE accounts SET revision = (SELECT seq + 1 FROM revision)").unwrap();
    cluster.postgres.query("UPDATE revision SET seq = seq + 1").unwrap();
    // Servers cache the token together with its expiry.
    client.get("/v1/heartbeat/a").await;
    eventually(async || client.get("/v1/heartbeat/a").await.status == 401).await;
    assert_eq!(
        ana.send(&format!("/account/tokens/{id}/rotate"), &[("old", "now")]).await.status,
        404,
        "the token has expired"
    );

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
async fn namespaces_are_created_and_removed_when_empty() {
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
    ana.send("/account/namespaces/remove", &[("name", "team")])
        .await
        .assert_shows(400, &["is the default of 1 tokens"]);
    let id = ana.get("/account/tokens").await.between("/account/tokens/", "/rotate").to_owned();
    ana.send(&format!("/account/tokens/{id}/revoke"), &[]).await;
    assert_eq!(ana.send("/account/namespaces/remove", &[("name", "team")]).await.status, 303);
    assert_eq!(ana.get("/account/locks?namespace=team").await.status, 404);

    // The page names the missing features of the plan, and the server rejects their use.
    cluster.operator(&["account", "set-plan", "ana@example.com", "hobbyist"]).await;
    ana.get("/account/plan")
        .await
        .assert_shows(200, &["Private namespaces require the plan business", "Other leases require the plan business"]);
    ana.send("/account/namespaces", &[("name", "other")]).await.assert_shows(400, &["no private namespaces"]);
    ana.send("/account/plan/lease", &[("lease", "5m")]).await.assert_shows(400, &["allows leases from"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn default_lease_is_set_and_usage_is_counted() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let token = ana.token("t", &["lock"]).await;
    let client = pod.client(&token);
    assert_eq!(ana.send("/account/plan/lease", &[("lease", "5m")]).await.status, 303);
    eventually(async || client.get("/v1/account").await.json["lease_ms"] == 300_000).await;
    ana.send("/account/plan/lease", &[("lease", "soon")]).await.assert_shows(400, &["Invalid lease"]);
    ana.send("/account/plan/lease", &[("lease", "25h")]).await.assert_shows(400, &["allows leases from"]);
    assert_eq!(ana.send("/account/plan/lease", &[("lease", "")]).await.status, 303);
    eventually(async || client.get("/v1/account").await.json["lease_ms"] == 60_000).await;

    for expected in [true, false, false] {
        assert_eq!(client.get("/v1/acquire/counted").await.json["response"], expected);
    }
    cluster.operator(&["plan", "set", "business", "--rate", "1", "--burst", "1"]).await;
    eventually(async || client.get("/v1/heartbeat/counted").await.status == 429).await;
    eventually(async || {
        let page = ana.get("/account/plan").await.text;
        page.contains("1 acquired") && page.contains("2 refused") && !page.contains("0 rate-limited")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn account_deletion_removes_what_its_page_lists() {
    let cluster = open_cluster().await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let token = ana.token("t", &["lock"]).await;
    ana.send("/account/namespaces", &[("name", "team")]).await;
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/last?lease=1h").await.json["response"], true);
    ana.get("/account/security/delete")
        .await
        .assert_shows(200, &["active tokens: 1", "held locks: 1", "namespaces: 1"]);
    let wrong = ana.send("/account/security/delete", &[("password", "not the password")]).await;
    wrong.assert_shows(400, &["Wrong password"]);
    assert_eq!(client.get("/v1/heartbeat/last").await.json["response"], true);

    assert_eq!(
        ana.send("/account/security/delete", &[("password", PASSWORD)]).await.redirect_target(),
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
    // A new account can use the address.
    let mut again = PageClient::member(&pod.origin(), "ana@example.com").await;
    assert!(!again.get("/account/audit").await.text.contains("lock.break"));
}
