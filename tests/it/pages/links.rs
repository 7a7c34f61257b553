//! One-time links: invitations and password resets.

use crate::support::{
    Cluster, Pod,
    page::{PASSWORD, PageClient},
};

fn path(link: &serde_json::Value) -> String {
    let link = link["link"].as_str().unwrap();
    format!("/account/link/{}", link.rsplit('/').next().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn invitation_creates_one_account_on_its_plan() {
    let cluster = Cluster::start(1).await;
    let origin = cluster.pods[0].origin();
    let made = cluster
        .operator(&["account", "invite", "--plan", "business", "--public-url", "https://locks.example.com"])
        .await;
    assert!(made["link"].as_str().unwrap().starts_with("https://locks.example.com/account/link/"), "{made}");
    let link = path(&made);
    let mut ana = PageClient::new(&origin);
    let csrf = ana.get(&link).await.csrf();
    let weak = ana.post(&link, &[("csrf", &csrf), ("email", "ana@example.com"), ("password", "short")]).await;
    weak.assert_shows(400, &["at least 15 characters"]);
    let sent = [("csrf", &*csrf), ("email", "ana@example.com"), ("password", PASSWORD)];
    assert_eq!(ana.post(&link, &sent).await.redirect_target(), "/account/sign-in?after=sign-up");
    assert_eq!(ana.sign_in("ana@example.com", PASSWORD).await.status, 303);
    ana.get("/account/plan").await.assert_shows(200, &["<strong>business</strong>"]);
    let csrf = ana.get("/account/sign-in").await.csrf();
    let sent = [("csrf", &*csrf), ("email", "eve@example.com"), ("password", PASSWORD)];
    for answer in [ana.get(&link).await, ana.post(&link, &sent).await, ana.get("/account/link/0").await] {
        answer.assert_shows(404, &["was used already or has expired"]);
    }

    // An invitation for one address ignores the submitted one.
    let link = path(&cluster.operator(&["account", "invite", "--email", "bob@example.com"]).await);
    let mut bob = PageClient::new(&origin);
    let page = bob.get(&link).await;
    page.assert_shows(200, &["bob@example.com"]);
    let csrf = page.csrf();
    bob.post(&link, &[("csrf", &csrf), ("email", "eve@example.com"), ("password", PASSWORD)]).await;
    assert_eq!(bob.sign_in("eve@example.com", PASSWORD).await.status, 403);
    assert_eq!(bob.sign_in("bob@example.com", PASSWORD).await.status, 303);
    bob.get("/account/plan").await.assert_shows(200, &["<strong>hobbyist</strong>", "require the plan business"]);

    let (code, _, complaint) = cluster.pods[0].run(&["account", "invite", "--email", "bob@example.com"]).await;
    assert_eq!((code, complaint.contains("already")), (Some(1), true), "{complaint}");
    let (code, _, complaint) = cluster.pods[0].run(&["account", "invite", "--valid", "31d"]).await;
    assert_eq!(code, Some(2), "{complaint}");
    let (code, _, complaint) = cluster.pods[0].run(&["account", "invite", "--valid", "721h"]).await;
    assert!(code == Some(2) && complaint.contains("at most 30 days"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn password_link_works_once() {
    let cluster = Cluster::start(1).await;
    let origin = cluster.pods[0].origin();
    let account = cluster.account("business").await;
    let first = path(&cluster.operator(&["account", "reset-password", &account.email]).await);
    let mut ana = PageClient::new(&origin);
    let csrf = ana.get(&first).await.csrf();
    assert_eq!(
        ana.post(&first, &[("csrf", &csrf), ("password", PASSWORD)]).await.redirect_target(),
        "/account/sign-in?after=password"
    );
    assert_eq!(ana.sign_in(&account.email, PASSWORD).await.status, 303);
    assert_eq!(ana.get(&first).await.status, 404);

    // A second reset ends all sessions of the first password.
    let second = path(&cluster.operator(&["account", "reset-password", &account.email]).await);
    let mut other = PageClient::new(&origin);
    let csrf = other.get(&second).await.csrf();
    other.post(&second, &[("csrf", &csrf), ("password", "five anchors under Bern")]).await;
    assert_eq!(ana.get("/account/locks").await.status, 303);
    assert_eq!(ana.sign_in(&account.email, PASSWORD).await.status, 403);
    // An expired link returns 404.
    let short = path(&cluster.operator(&["account", "reset-password", &account.email, "--valid", "1ms"]).await);
    crate::support::eventually(async || other.get(&short).await.status == 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_start_creates_a_password_link() {
    // The listen address of a container.
    let pod = Pod::builder().env("LOCKABLE_LISTEN", "0.0.0.0:0").start().await;
    let (token, text) = (pod.first_token(), pod.first_account());
    let link = text.lines().map(str::trim).find(|line| line.contains("/account/link/")).unwrap();
    let path = link.strip_prefix(&format!("http://{}", pod.authority("localhost"))).unwrap();
    let mut owner = PageClient::new(&pod.origin());
    let csrf = owner.get(path).await.csrf();
    assert_eq!(owner.post(path, &[("csrf", &csrf), ("password", PASSWORD)]).await.status, 303);
    assert_eq!(owner.sign_in("owner@localhost", PASSWORD).await.status, 303);
    pod.client(&token).get("/v1/acquire/mine").await;
    owner.get("/account/locks").await.assert_shows(200, &["mine"]);
}
