//! Forms: CSRF protection, sessions, isolation of accounts, escaping.

use super::open_cluster;
use crate::support::{
    Pod,
    page::{PASSWORD, PageClient},
};

/// Every form of the pages, with valid fields.
const FORMS: &[(&str, &[(&str, &str)])] = &[
    ("/account/sign-in", &[("email", "ana@example.com"), ("password", PASSWORD)]),
    ("/account/sign-up", &[("email", "eve@example.com"), ("password", PASSWORD)]),
    ("/account/link/LINK", &[("password", "five anchors under Bern")]),
    ("/account/sign-out", &[]),
    ("/account/tokens", &[("label", "stolen"), ("scope", "lock"), ("namespace", "public")]),
    ("/account/tokens/TOKEN/rotate", &[("old", "now")]),
    ("/account/tokens/TOKEN/revoke", &[]),
    ("/account/locks/break", &[("namespace", "public"), ("name", "held"), ("fence", "FENCE")]),
    ("/account/plan/lease", &[("lease", "5m")]),
    ("/account/namespaces", &[("name", "stolen")]),
    ("/account/namespaces/remove", &[("name", "own")]),
    ("/account/security/password", &[("current", PASSWORD), ("password", "five anchors under Bern")]),
    ("/account/security/sessions", &[("session", "")]),
    ("/account/security/delete", &[("password", PASSWORD)]),
];

#[tokio::test(flavor = "multi_thread")]
async fn forms_require_the_csrf_token_of_their_browser() {
    let cluster = open_cluster().await;
    let origin = cluster.pods[0].origin();
    let mut ana = PageClient::member(&origin, "ana@example.com").await;
    assert_eq!(ana.send("/account/namespaces", &[("name", "own")]).await.status, 303);
    let token = ana.token("first", &["lock", "manage"]).await;
    let client = cluster.pods[0].client(&token);
    let fence = client.get("/v1/acquire/held").await.json["fencing_token"].to_string();
    let page = ana.get("/account/tokens").await;
    let id = page.between("/account/tokens/", "/rotate").to_owned();
    let made = cluster.operator(&["account", "reset-password", "ana@example.com"]).await;
    let link = made["link"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();

    // CSRF tokens of another browser, from a session and from a visit.
    let mut eve = PageClient::member(&origin, "eve-herself@example.com").await;
    let of_eve = eve.get("/account/security").await.csrf();
    let of_her_visit = eve.get("/account/sign-in").await.csrf();
    for (path, fields) in FORMS {
        let path = path.replace("TOKEN", &id).replace("LINK", &link);
        let fields: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (*name, if *value == "FENCE" { &*fence } else { value })).collect();
        for csrf in [None, Some(""), Some("0"), Some(&*of_eve), Some(&*of_her_visit)] {
            let guard = csrf.map(|csrf| ("csrf", csrf));
            let answer = ana.post(&path, &guard.into_iter().chain(fields.clone()).collect::<Vec<_>>()).await;
            answer.assert_shows(403, &["This form was not made for this browser"]);
        }
    }
    // No form had an effect.
    assert_eq!(client.get("/v1/heartbeat/held").await.json["response"], true);
    let page = ana.get("/account/tokens").await;
    assert!(page.text.contains("first") && !page.text.contains("stolen"), "{}", page.text);
    ana.get("/account/plan").await.assert_shows(200, &["namespace=own"]);
    assert_eq!(ana.sign_in("ana@example.com", PASSWORD).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_session_cannot_act() {
    let cluster = open_cluster().await;
    let origin = cluster.pods[0].origin();
    let mut ana = PageClient::member(&origin, "ana@example.com").await;
    let csrf = ana.get("/account/security").await.csrf();
    let replayed = ana.clone();
    assert_eq!(ana.send("/account/sign-out", &[]).await.redirect_target(), "/account/sign-in?after=sign-out");
    assert!(ana.cookies.is_empty(), "{:?}", ana.cookies);

    let mut ended = replayed.clone();
    for path in ["/account/locks", "/account/locks/live", "/account/tokens", "/account/plan", "/account/audit.csv"] {
        assert!(ended.get(path).await.redirect_target().starts_with("/account/sign-in?to="), "{path}");
    }
    let fields = [("csrf", &*csrf), ("label", "late"), ("scope", "lock"), ("namespace", "public")];
    assert_eq!(ended.post("/account/tokens", &fields).await.redirect_target(), "/account/sign-in");
    assert_eq!(ana.sign_in("ana@example.com", PASSWORD).await.status, 303);
    assert!(!ana.get("/account/tokens").await.text.contains("late"));
    assert_ne!(ana.cookies, replayed.cookies, "each session has its own secret");

    // Another session can end a session, and a new password ends all other sessions.
    let mut other = PageClient::new(&origin);
    other.sign_in("ana@example.com", PASSWORD).await;
    let page = ana.get("/account/security").await;
    let id = page.between("name=\"session\" value=\"", "\"").to_owned();
    assert_eq!(ana.send("/account/security/sessions", &[("session", &id)]).await.status, 303);
    assert_eq!(other.get("/account/locks").await.status, 303);
    other.sign_in("ana@example.com", PASSWORD).await;
    let change = [("current", PASSWORD), ("password", "five anchors under Bern")];
    assert_eq!(ana.send("/account/security/password", &change).await.status, 303);
    assert_eq!(other.get("/account/locks").await.status, 303);
    assert_eq!(ana.get("/account/locks").await.status, 200);
    assert_eq!(other.sign_in("ana@example.com", PASSWORD).await.status, 403);
    assert_eq!(other.sign_in("ana@example.com", "five anchors under Bern").await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn oldest_sessions_end_above_the_limit() {
    let cluster = open_cluster().await;
    let origin = cluster.pods[0].origin();
    let mut first = PageClient::member(&origin, "ana@example.com").await;
    let copies = "INSERT INTO sessions SELECT 'copy-' || n, 'copy-' || n, account, created_at + n, seen_at, '', '' \
                  FROM sessions, generate_series(1, 150) AS n";
    cluster.postgres.query(copies).unwrap();
    let mut last = PageClient::new(&origin);
    assert_eq!(last.sign_in("ana@example.com", PASSWORD).await.status, 303);
    assert!(cluster.postgres.query("SELECT 'there are ' || COUNT(*) FROM sessions").unwrap().contains("there are 100"));
    assert_eq!((first.get("/account/locks").await.status, last.get("/account/locks").await.status), (303, 200));
    // Old and unused sessions end by themselves.
    for column in ["created_at = 1", "seen_at = 1"] {
        let mut ana = PageClient::new(&origin);
        assert_eq!(ana.sign_in("ana@example.com", PASSWORD).await.status, 303);
        cluster.postgres.query(&format!("UPDATE sessions SET {column}")).unwrap();
        assert_eq!(ana.get("/account/locks").await.status, 303, "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_another_account_is_inaccessible() {
    let cluster = open_cluster().await;
    let origin = cluster.pods[0].origin();
    let mut ana = PageClient::member(&origin, "ana@example.com").await;
    let mut eve = PageClient::member(&origin, "eve@example.com").await;
    let token = ana.token("of-ana", &["lock"]).await;
    let client = cluster.pods[0].client(&token);
    let fence = client.get("/v1/acquire/shared?owner=ana&note=secret-plan").await.json["fencing_token"].to_string();
    ana.send("/account/namespaces", &[("name", "own")]).await;
    let page = ana.get("/account/tokens").await;
    let id = page.between("/account/tokens/", "/rotate").to_owned();
    let page = ana.get("/account/audit").await;
    assert!(page.text.contains("of-ana"));

    for path in [format!("/account/tokens/{id}/rotate"), "/account/locks?namespace=own".to_owned()] {
        assert_eq!(eve.get(&path).await.status, 404, "{path}");
    }
    assert_eq!(eve.send(&format!("/account/tokens/{id}/rotate"), &[("old", "now")]).await.status, 404);
    assert_eq!(eve.send(&format!("/account/tokens/{id}/revoke"), &[]).await.status, 404);
    let lock = [("namespace", "public"), ("name", "shared"), ("fence", &fence)];
    eve.send("/account/locks/break", &lock).await.assert_shows(200, &["Nothing was broken"]);
    let in_namespace = [("namespace", "own"), ("name", "shared"), ("fence", &fence)];
    assert_eq!(eve.send("/account/locks/break", &in_namespace).await.status, 404);
    assert_eq!(eve.send("/account/namespaces/remove", &[("name", "own")]).await.status, 404);
    assert_eq!(
        eve.send("/account/tokens", &[("label", "a"), ("scope", "lock"), ("namespace", "own")]).await.status,
        404
    );
    let session = ana.get("/account/audit").await.between("session</span> <bdi>", "</bdi>").to_owned();
    assert_eq!(eve.send("/account/security/sessions", &[("session", &session)]).await.status, 404);
    // The history is written a moment later.
    crate::support::eventually(async || {
        let history = ana.get("/account/locks/history?namespace=public&name=shared").await.text;
        history.contains("secret-plan") && ana.get("/account/plan").await.text.contains("1 acquired")
    })
    .await;
    for path in [
        "/account/locks/break?namespace=public&name=shared",
        "/account/locks/history?namespace=public&name=shared",
        "/account/plan",
        "/account/locks",
        "/account/audit",
        "/account/audit.csv",
        "/account/security",
    ] {
        let page = eve.get(path).await;
        assert_eq!(page.status, 200, "{path}");
        for secret in ["secret-plan", "of-ana", "ana@example.com", "1 acquired", &fence] {
            assert!(!page.text.contains(secret), "{secret} is on {path}: {}", page.text);
        }
    }
    assert_eq!(client.get("/v1/heartbeat/shared?owner=ana").await.json["response"], true);
    assert_eq!(ana.get("/account/locks").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn user_markup_is_escaped() {
    const MARKUP: &str = "<script>alert(1)</script>\"'><img/src=x>&amp;";
    const OWNER: &str = "<script>alert(1)</script>\"'><img/src=x>";
    let pod = Pod::start().await;
    let agent = format!("Browser {MARKUP}");
    let mut ana = PageClient::new(&pod.origin()).with_field("user-agent", &agent);
    ana.sign_up("<b>@example.com", PASSWORD).await;
    assert_eq!(ana.sign_in("<b>@example.com", PASSWORD).await.status, 303);
    let token = ana.token(MARKUP, &["lock", "manage"]).await;
    let client = pod.client(&token);
    let form = [("owner", OWNER), ("note", MARKUP)];
    let path = format!("/v1/acquire/{}", "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%27%3Cimg%3E");
    assert_eq!(client.post_form(&path, &form).await.json["response"], true);
    let waiting = tokio::spawn({
        let (client, path) = (client.clone(), path.clone());
        async move { client.post_form(&path, &[("owner", "<i>"), ("note", MARKUP), ("wait", "20s")]).await }
    });
    crate::support::eventually(async || ana.get("/account/locks").await.text.contains("&#60;i&#62;")).await;

    let name = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%27%3Cimg%3E";
    let mut other = PageClient::new(&pod.origin()).with_field("user-agent", &agent);
    other.sign_in("<b>@example.com", PASSWORD).await;
    for path in [
        "/account/locks",
        &format!("/account/locks?prefix={name}&namespace=public"),
        &format!("/account/locks/break?namespace=public&name={name}"),
        &format!("/account/locks/history?namespace=public&name={name}"),
        "/account/tokens",
        "/account/plan",
        "/account/security",
        "/account/security/delete",
        "/account/audit",
        &format!("/account/audit?kind={name}"),
        &format!("/account/sign-in?to={name}&after={name}"),
        &format!("/account/sign-in?to=%2Faccount%22%3E{name}"),
        &format!("/docs/{name}"),
        &format!("/problems/{name}"),
    ] {
        let page = ana.get(path).await;
        for tag in ["<script>", "<img", "<i>", "<b>@"] {
            assert!(!page.text.contains(tag), "{path} contains {tag}: {}", page.text);
        }
        assert!(!page.text.contains("=\"/account\">&#60;"), "markup ends an attribute early");
    }
    let complaint = ana.send("/account/sign-up", &[("email", MARKUP), ("password", "short")]).await;
    assert!(!complaint.text.contains("<script>"), "{}", complaint.text);
    waiting.abort();
}
