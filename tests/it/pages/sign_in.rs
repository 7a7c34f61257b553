//! Sign-in, sign-up and sessions against attackers: no disclosure of accounts, limited attempts.

use super::open_cluster;
use crate::support::{
    Pod,
    page::{PASSWORD, PageClient},
};

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_and_sign_up_do_not_reveal_accounts() {
    let cluster = open_cluster().await;
    let origin = cluster.pods[0].origin();
    PageClient::member(&origin, "ana@example.com").await;
    let mut eve = PageClient::new(&origin);
    let (known, unknown) = (
        eve.sign_in("ana@example.com", "not the password").await,
        eve.sign_in("bob@example.com", "not the password").await,
    );
    assert_eq!((known.status, unknown.status), (403, 403));
    let plain = |text: &str, email: &str| text.replace(email, "EMAIL");
    assert_eq!(plain(&known.text, "ana@example.com"), plain(&unknown.text, "bob@example.com"));
    let names = |answer: &crate::support::page::PageResponse| answer.headers.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&known), names(&unknown));

    let (again, new) = (
        eve.sign_up("ana@example.com", "five anchors under Bern").await,
        eve.sign_up("bob@example.com", PASSWORD).await,
    );
    assert_eq!((again.status, again.redirect_target()), (new.status, new.redirect_target()));
    assert_eq!((again.text.as_str(), names(&again)), (new.text.as_str(), names(&new)));
    // The account is unchanged, and its audit log shows the attempts.
    assert_eq!(eve.sign_in("ana@example.com", "five anchors under Bern").await.status, 403);
    let mut ana = PageClient::new(&origin);
    assert_eq!(ana.sign_in("ANA@example.com", PASSWORD).await.status, 303);
    crate::support::eventually(async || {
        let log = ana.get("/account/audit").await.text;
        log.contains("account.sign-up-again") && log.contains("account.sign-in-failed")
    })
    .await;
    // An account without a password cannot sign in.
    let made = cluster.account("hobbyist").await;
    assert_eq!(eve.sign_in(&made.email, "").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn password_attempts_are_rate_limited() {
    let cluster = open_cluster().await;
    let origin = cluster.pods[0].origin();
    let mut ana = PageClient::member(&origin, "ana@example.com").await;
    let mut eve = PageClient::new(&origin);
    // Successful sign-ins count, too: every attempt counts.
    for _ in 0..9 {
        assert_eq!(eve.sign_in("ana@example.com", "not the password").await.status, 403);
    }
    for password in ["not the password", PASSWORD] {
        let refused = eve.sign_in("Ana@Example.com", password).await;
        refused.assert_shows(429, &["Too many attempts"]);
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((30..=60).contains(&wait), "{wait}");
    }
    assert_eq!(eve.sign_in("bob@example.com", "not the password").await.status, 403, "other accounts are unaffected");
    assert_eq!(ana.get("/account/locks").await.status, 200, "existing sessions stay valid");
    // Attempts of one address are limited across all accounts.
    let mut count = 0;
    while eve.sign_in(&format!("somebody-{count}@example.com"), "not the password").await.status == 403 {
        count += 1;
        assert!(count < 40, "password attempts of an address are unlimited");
    }
    for count in 0..30 {
        match eve.sign_up(&format!("new-{count}@example.com"), PASSWORD).await.status {
            303 => assert!(count < 20, "sign-ups of an address are unlimited"),
            429 => return,
            other => panic!("{other}"),
        }
    }
    panic!("sign-ups of an address are unlimited");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_sessions_are_rate_limited() {
    let pod = Pod::builder().env("LOCKABLE_AUTH_FAILURES_PER_MINUTE", "3").start().await;
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let mut eve = PageClient::new(&pod.origin());
    eve.cookies.push(("__Host-lockable".into(), "0".repeat(64)));
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(eve.get_once("/account/locks").await.status);
    }
    assert!(seen.starts_with(&[303, 303, 303]) && seen.ends_with(&[429, 429]), "{seen:?}");
    assert_eq!(eve.get_once("/").await.status, 200, "public pages are served");
    // Invalid tokens are counted apart from invalid sessions.
    pod.client("11111111-2222-4333-8444-555555555555")
        .get("/v1/acquire/a")
        .await
        .assert_problem(401, "unauthenticated");
    assert_eq!(ana.get_once("/account/locks").await.status, 429, "ana uses the same address");
    assert_eq!(ana.get_once("/docs").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_passwords_and_invalid_addresses_are_rejected_with_a_reason() {
    let pod = Pod::start().await;
    let mut ana = PageClient::new(&pod.origin());
    for (email, password, complaint) in [
        ("ana@example.com", "too short", "at least 15 characters"),
        ("ana@example.com", "passwordpassword", "easy to guess"),
        ("ana@example.com", "ana@example.com", "easy to guess"),
        ("ana@example.com", &"long ".repeat(60), "at most 256 characters"),
        ("nobody", PASSWORD, "is not a valid e-mail address"),
        ("a b@example.com", PASSWORD, "is not a valid e-mail address"),
    ] {
        let answer = ana.sign_up(email, password).await;
        answer.assert_shows(400, &[complaint]);
        assert!(!answer.text.contains(password) || email == password, "{}", answer.text);
        assert!(answer.text.contains(&format!("value=\"{email}\"")), "the form keeps the e-mail address");
    }
    // Every length in between is valid.
    assert_eq!(ana.sign_up("ana@example.com", &"wörter ohne Ende ".repeat(15)).await.status, 303);
    assert_eq!(ana.sign_in("ana@example.com", &"wörter ohne Ende ".repeat(15)).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_redirects_only_to_account_pages() {
    let pod = Pod::start().await;
    let mut ana = PageClient::new(&pod.origin());
    ana.sign_up("ana@example.com", PASSWORD).await;
    assert_eq!(ana.get("/account/plan?x=1").await.redirect_target(), "/account/sign-in?to=%2Faccount%2Fplan%3Fx%3D1");
    for (to, led) in [
        ("/account/plan?x=1", "/account/plan?x=1"),
        ("https://evil.example.com/account/", "/account/locks"),
        ("//evil.example.com/account/", "/account/locks"),
        ("/account\\evil", "/account/locks"),
        ("/account/\r\nset-cookie:a=b", "/account/locks"),
        ("/accounts", "/account/locks"),
        ("", "/account/locks"),
    ] {
        let csrf = ana.get("/account/sign-in").await.csrf();
        let fields = [("csrf", &*csrf), ("email", "ana@example.com"), ("password", PASSWORD), ("to", to)];
        assert_eq!(ana.post("/account/sign-in", &fields).await.redirect_target(), led, "{to}");
        ana.cookies.retain(|(name, _)| name != "__Host-lockable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_up_on_postgres_needs_an_invitation() {
    let cluster = crate::support::Cluster::start(1).await;
    let origin = cluster.pods[0].origin();
    let mut eve = PageClient::new(&origin);
    eve.get("/account/sign-up").await.assert_shows(200, &["by invitation"]);
    let csrf = eve.get("/account/sign-in").await.csrf();
    let fields = [("csrf", &*csrf), ("email", "eve@example.com"), ("password", PASSWORD)];
    eve.post("/account/sign-up", &fields).await.assert_shows(403, &["by invitation"]);
    assert_eq!(eve.sign_in("eve@example.com", PASSWORD).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_sign_up_plan_stops_the_start() {
    let (code, complaint) = Pod::builder().env("LOCKABLE_SIGN_UP_PLAN", "gold").expect_refusal().await;
    assert_eq!(code, Some(1));
    assert!(complaint.contains("LOCKABLE_SIGN_UP_PLAN names the unknown plan \"gold\""), "{complaint}");
}
