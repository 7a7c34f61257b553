//! The store's clock jumps: while servers are connected, while they are not, and while Redis is
//! paused.

use std::time::{Duration, Instant};

use super::{reason, wait_until_open};
use crate::support::{
    Client, Pod, eventually,
    redis::{FakeClock, RedisServer},
};

const JUMP_US: u64 = 40_000_000;

/// Asserts that nobody else is granted ana's lock of 30 seconds while she may rely on it, although
/// its lease has expired by Redis's clock, because a recovery begins.
async fn assert_no_second_holder(client: &Client) {
    let since = Instant::now();
    let mut is_noticed = false;
    while since.elapsed() < Duration::from_secs(4) {
        let other = client.get("/v1/acquire/x?owner=bob&lease=1s").await;
        assert_ne!(other.json["response"], true, "{}", other.text);
        is_noticed |= other.json["reason"] == "recovering";
    }
    assert!(is_noticed, "no recovery began after the clock jump");
}

async fn holder() -> (RedisServer, FakeClock, Pod, Client) {
    let (redis, clock) = RedisServer::builder().start_with_clock(0);
    let pod = Pod::builder().redis(&redis).env("LOCKABLE_JOURNAL_ABOVE", "30s").start().await;
    let client = pod.client(&pod.first_token());
    assert_eq!(client.get("/v1/acquire/x?owner=ana&lease=30s").await.json["response"], true);
    (redis, clock, pod, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jump_with_lost_connections_is_detected() {
    let (redis, clock, _pod, client) = holder().await;
    clock.advance(JUMP_US);
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_no_second_holder(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jump_while_redis_is_paused_is_detected() {
    let (redis, clock, _pod, client) = holder().await;
    redis.pause();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    clock.advance(JUMP_US);
    redis.resume();
    assert_no_second_holder(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backward_clock_jump_with_lost_connections_is_detected() {
    let (redis, clock) = RedisServer::builder().start_with_clock(0);
    let pod = Pod::builder().redis(&redis).env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await;
    let client = pod.client(&pod.first_token());
    let before = client.get("/v1/acquire/x?owner=ana&lease=1s").await.json["fencing_token"].as_u64().unwrap();
    clock.set_back(JUMP_US);
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    eventually(async || reason(&client, "/v1/acquire/other?lease=1s").await == "recovering").await;
    wait_until_open(&client, Instant::now()).await;
    let after = client.get("/v1/acquire/y?owner=ana&lease=1s").await.json["fencing_token"].as_u64().unwrap();
    assert!(after > before, "{after}, {before}");
}

/// The embedded store uses a clock that cannot be set, also across restarts.
#[tokio::test(flavor = "multi_thread")]
async fn setting_the_system_clock_ends_no_embedded_lease() {
    let folder = tempfile::tempdir().unwrap();
    let clock = FakeClock::new(folder.path(), 0);
    let database = format!("sqlite:{}", folder.path().join("test.db").display());
    let start = async || {
        let pod = FakeClock::variables(folder.path())
            .iter()
            .fold(Pod::builder(), |pod, (name, value)| pod.env(name, value.to_str().unwrap()));
        pod.database(&database).start().await
    };
    let mut pod = start().await;
    let token = pod.first_token();
    let mut client = pod.client(&token);
    let first = client.get("/v1/acquire/x?owner=ana&lease=60s").await;
    for (jump, by_us) in [("ahead", 3_600_000_000), ("back", 7_200_000_000)] {
        match jump {
            "ahead" => clock.advance(by_us),
            _ => clock.set_back(by_us),
        }
        let other = client.get("/v1/acquire/x?owner=bob").await;
        assert_eq!(other.json["reason"], "held", "{jump}: {}", other.text);
        assert!((50_000..=60_000).contains(&other.json["retry_after_ms"].as_u64().unwrap()), "{jump}: {}", other.text);
        let next = client.get(&format!("/v1/acquire/{jump}")).await;
        assert!(next.json["fencing_token"].as_u64() > first.json["fencing_token"].as_u64(), "{jump}: {}", next.text);
        // The next process continues that clock.
        assert_eq!(pod.stop().await, Some(0));
        pod = start().await;
        client = pod.client(&token);
        assert_eq!(reason(&client, "/v1/acquire/x?owner=bob").await, "held", "{jump}");
        assert!(pod.log().contains("clock was set"), "{}", pod.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_database_is_locked_under_every_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let url = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
    let _pod = Pod::builder().database(&url("test.db")).start().await;
    std::os::unix::fs::symlink(&path, folder.path().join("symbolic.db")).unwrap();
    std::fs::hard_link(&path, folder.path().join("hard.db")).unwrap();
    for name in ["test.db", "symbolic.db", "hard.db", "./test.db"] {
        let (code, complaint) = Pod::builder().database(&url(name)).expect_refusal().await;
        assert!(code == Some(1) && complaint.contains("another server uses this database"), "{name}: {complaint}");
    }
}
