//! Password changes, and the sessions of the former password.

use crate::support::{
    Cluster, Pod, eventually,
    page::{PASSWORD, PageClient},
};

const OTHER: &str = "five anchors under Bern";
const EMAIL: &str = "ana@example.com";

async fn open_cluster(pods: usize) -> Cluster {
    let settings = [("LOCKABLE_SIGN_UP", "true"), ("LOCKABLE_SIGN_UP_PLAN", "business")];
    Cluster::start_with(pods, crate::support::redis::RedisServer::builder(), &settings).await
}

async fn reset_link(pod: &Pod) -> String {
    let made = pod.operator(&["account", "reset-password", EMAIL]).await;
    format!("/account/link/{}", made["link"].as_str().unwrap().rsplit('/').next().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn new_password_invalidates_all_links_of_the_user() {
    let cluster = open_cluster(1).await;
    let pod = &cluster.pods[0];
    let mut ana = PageClient::member(&pod.origin(), EMAIL).await;
    let mut visitor = PageClient::new(&pod.origin());
    let [first, second] = [reset_link(pod).await, reset_link(pod).await];
    let csrf = visitor.get(&second).await.csrf();
    assert_eq!(visitor.post(&second, &[("csrf", &csrf), ("password", OTHER)]).await.status, 303);
    assert_eq!(visitor.get(&first).await.status, 404, "the other link invalidated it");

    let third = reset_link(pod).await;
    assert_eq!(visitor.get(&third).await.status, 200);
    assert_eq!(ana.sign_in(EMAIL, OTHER).await.status, 303);
    let change = [("current", OTHER), ("password", PASSWORD)];
    assert_eq!(ana.send("/account/security/password", &change).await.status, 303);
    assert_eq!(visitor.get(&third).await.status, 404, "the password change invalidated it");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_sign_in_fails_after_password_change() {
    let cluster = open_cluster(2).await;
    let [here, there] = [cluster.pods[0].origin(), cluster.pods[1].origin()];
    let mut ana = PageClient::member(&here, EMAIL).await;
    let mut eve = PageClient::new(&there);
    let csrf = eve.get("/account/sign-in").await.csrf();
    let waits = async |count| eventually(async || cluster.postgres.lock_waiters("UPDATE revision") == count).await;

    let form = ana.get("/account/security").await.csrf();

    // Both changes wait for the row lock, in this order.
    let busy = cluster.postgres.hold_rows("UPDATE revision SET seq = seq").await;
    let changing = tokio::spawn(async move {
        let fields = [("csrf", &*form), ("current", PASSWORD), ("password", OTHER)];
        ana.post("/account/security/password", &fields).await.status
    });
    waits(1).await;
    let signing_in = tokio::spawn(async move {
        let fields = [("csrf", &*csrf), ("email", EMAIL), ("password", PASSWORD)];
        let status = eve.post("/account/sign-in", &fields).await.status;
        (eve, status)
    });
    waits(2).await;
    busy.end();
    assert_eq!(changing.await.unwrap(), 303);
    let (mut eve, status) = signing_in.await.unwrap();
    assert_eq!(status, 403, "as with any wrong password");
    assert_eq!(eve.get("/account/locks").await.status, 303);
    assert_eq!(eve.sign_in(EMAIL, OTHER).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_change_fails_after_its_session_ends() {
    let cluster = open_cluster(2).await;
    let mut ana = PageClient::member(&cluster.pods[0].origin(), EMAIL).await;
    let mut thief = ana.clone();
    let waits = async |count| eventually(async || cluster.postgres.lock_waiters("UPDATE revision") == count).await;
    ana.cookies.retain(|(name, _)| name != "__Host-lockable");
    assert_eq!(ana.sign_in(EMAIL, PASSWORD).await.status, 303);

    let [form, stolen] = [ana.get("/account/security").await.csrf(), thief.get("/account/security").await.csrf()];

    let busy = cluster.postgres.hold_rows("UPDATE revision SET seq = seq").await;
    let changing = tokio::spawn(async move {
        ana.post("/account/security/sessions", &[("csrf", &*form), ("session", "")]).await.status
    });
    waits(1).await;
    let stealing = tokio::spawn(async move {
        let fields = [("csrf", &*stolen), ("label", "stolen"), ("scope", "lock"), ("namespace", "public")];
        thief.post("/account/tokens", &fields).await
    });
    waits(2).await;
    busy.end();
    assert_eq!(changing.await.unwrap(), 303);
    stealing.await.unwrap().assert_shows(403, &["The session has ended"]);
    assert_eq!(cluster.operator(&["token", "list", "--account", EMAIL]).await.as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_sign_ins_of_others_do_not_block_password_change() {
    let pod = Pod::start().await;
    let mut ana = PageClient::member(&pod.origin(), EMAIL).await;
    let mut eve = PageClient::new(&pod.origin());
    eventually(async || eve.sign_in(EMAIL, "not the password").await.status == 429).await;

    let change = [("current", PASSWORD), ("password", OTHER)];
    assert_eq!(ana.send("/account/security/password", &change).await.status, 303);
    // A stolen session cannot try passwords faster than others.
    let guess = [("current", "not the password"), ("password", PASSWORD)];
    for _ in 0..9 {
        assert_eq!(ana.send("/account/security/password", &guess).await.status, 400);
    }
    assert_eq!(ana.send("/account/security/password", &guess).await.status, 429);
    assert_eq!(ana.send("/account/security/delete", &[("password", OTHER)]).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_sign_in_ends_the_replaced_session() {
    let pod = Pod::start().await;
    let mut ana = PageClient::member(&pod.origin(), EMAIL).await;
    let mut elsewhere = PageClient::new(&pod.origin());
    assert_eq!(elsewhere.sign_in(EMAIL, PASSWORD).await.status, 303);
    let mut former = ana.clone();
    assert_eq!(ana.sign_in(EMAIL, "not the password").await.status, 403);
    assert_eq!(former.get("/account/locks").await.status, 200, "a failed sign-in ends no session");
    assert_eq!(ana.sign_in(EMAIL, PASSWORD).await.status, 303);
    assert_eq!(former.get("/account/locks").await.status, 303);
    for other in [&mut ana, &mut elsewhere] {
        assert_eq!(other.get("/account/locks").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_account_cannot_delete_itself() {
    let pod = Pod::start().await;
    let mut ana = PageClient::member(&pod.origin(), EMAIL).await;
    pod.operator(&["account", "suspend", EMAIL]).await;
    let refused = ana.send("/account/security/delete", &[("password", PASSWORD)]).await;
    refused.assert_shows(403, &["This account is suspended"]);
    assert!(pod.operator(&["account", "show", EMAIL]).await["suspended_at"].is_i64());
    pod.operator(&["account", "resume", EMAIL]).await;
    assert_eq!(ana.send("/account/security/delete", &[("password", PASSWORD)]).await.status, 303);
}
