//! What somebody learns who has no account, or tries passwords.

use super::open_cluster;
use crate::support::{
    Pod,
    page::{PASSWORD, PageClient},
};

#[tokio::test(flavor = "multi_thread")]
async fn whether_an_address_has_an_account_is_told_to_nobody() {
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
    let names = |answer: &crate::support::page::PageAnswer| answer.headers.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&known), names(&unknown));

    let (again, new) = (
        eve.sign_up("ana@example.com", "five anchors under Bern").await,
        eve.sign_up("bob@example.com", PASSWORD).await,
    );
    assert_eq!((again.status, again.to()), (new.status, new.to()));
    assert_eq!((again.text.as_str(), names(&again)), (new.text.as_str(), names(&new)));
    // The account is as it was, and its owner is told.
    assert_eq!(eve.sign_in("ana@example.com", "five anchors under Bern").await.status, 403);
    let mut ana = PageClient::new(&origin);
    assert_eq!(ana.sign_in("ANA@example.com", PASSWORD).await.status, 303);
    crate::support::eventually(async || {
        let log = ana.get("/account/audit").await.text;
        log.contains("account.sign-up-again") && log.contains("account.sign-in-failed")
    })
    .await;
    // Who has no password cannot be signed in to.
    let made = cluster.account("hobbyist").await;
    assert_eq!(eve.sign_in(&made.email, "").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_not_tried_often() {
    let cluster = open_cluster().await;
    let origin = cluster.pods[0].origin();
    let mut ana = PageClient::member(&origin, "ana@example.com").await;
    let mut eve = PageClient::new(&origin);
    // Signing in has counted, too: what counts is what is tried.
    for _ in 0..9 {
        assert_eq!(eve.sign_in("ana@example.com", "not the password").await.status, 403);
    }
    for password in ["not the password", PASSWORD] {
        let refused = eve.sign_in("Ana@Example.com", password).await;
        refused.assert_shows(429, &["That was tried too often"]);
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((30..=60).contains(&wait), "{wait}");
    }
    assert_eq!(eve.sign_in("bob@example.com", "not the password").await.status, 403, "others are not held up");
    assert_eq!(ana.get("/account/locks").await.status, 200, "who is signed in stays so");
    // An address has an allowance, too, whoever's the passwords are.
    let mut count = 0;
    while eve.sign_in(&format!("somebody-{count}@example.com"), "not the password").await.status == 403 {
        count += 1;
        assert!(count < 40, "an address tries without end");
    }
    for count in 0..30 {
        match eve.sign_up(&format!("new-{count}@example.com"), PASSWORD).await.status {
            303 => assert!(count < 20, "an address makes accounts without end"),
            429 => return,
            other => panic!("{other}"),
        }
    }
    panic!("an address makes accounts without end");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_not_tried_often() {
    let pod = Pod::builder().env("LOCKABLE_AUTH_FAILURES_PER_MINUTE", "3").start().await;
    let mut ana = PageClient::member(&pod.origin(), "ana@example.com").await;
    let mut eve = PageClient::new(&pod.origin());
    eve.cookies.push(("__Host-lockable".into(), "0".repeat(64)));
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(eve.get_once("/account/locks").await.status);
    }
    assert!(seen.starts_with(&[303, 303, 303]) && seen.ends_with(&[429, 429]), "{seen:?}");
    assert_eq!(eve.get_once("/").await.status, 200, "what needs no session is there");
    // Of tokens that are nobody's there is another count, and of these sessions none.
    pod.client("11111111-2222-4333-8444-555555555555")
        .get("/v1/acquire/a")
        .await
        .assert_problem(401, "unauthenticated");
    assert_eq!(ana.get_once("/account/locks").await.status, 429, "the address is hers, too");
    assert_eq!(ana.get_once("/docs").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_passwords_and_strange_addresses_are_refused_and_say_why() {
    let pod = Pod::start().await;
    let mut ana = PageClient::new(&pod.origin());
    for (email, password, complaint) in [
        ("ana@example.com", "too short", "15 characters at least"),
        ("ana@example.com", "passwordpassword", "among the first that are tried"),
        ("ana@example.com", "ana@example.com", "among the first that are tried"),
        ("ana@example.com", &"long ".repeat(60), "256 characters at most"),
        ("nobody", PASSWORD, "is no e-mail address"),
        ("a b@example.com", PASSWORD, "is no e-mail address"),
    ] {
        let answer = ana.sign_up(email, password).await;
        answer.assert_shows(400, &[complaint]);
        assert!(!answer.text.contains(password) || email == password, "{}", answer.text);
        assert!(answer.text.contains(&format!("value=\"{email}\"")), "what was typed is kept");
    }
    // Every length in between is a password.
    assert_eq!(ana.sign_up("ana@example.com", &"wörter ohne Ende ".repeat(15)).await.status, 303);
    assert_eq!(ana.sign_in("ana@example.com", &"wörter ohne Ende ".repeat(15)).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_leads_to_the_account_and_nowhere_else() {
    let pod = Pod::start().await;
    let mut ana = PageClient::new(&pod.origin());
    ana.sign_up("ana@example.com", PASSWORD).await;
    assert_eq!(ana.get("/account/plan?x=1").await.to(), "/account/sign-in?to=%2Faccount%2Fplan%3Fx%3D1");
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
        assert_eq!(ana.post("/account/sign-in", &fields).await.to(), led, "{to}");
        ana.cookies.retain(|(name, _)| name != "__Host-lockable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_nobody_signs_up_unasked() {
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
async fn a_plan_that_is_none_is_found_by_the_operator() {
    let (code, complaint) = Pod::builder().env("LOCKABLE_SIGN_UP_PLAN", "gold").expect_refusal().await;
    assert_eq!(code, Some(1));
    assert!(complaint.contains("LOCKABLE_SIGN_UP_PLAN names \"gold\", and there is no such plan"), "{complaint}");
}
