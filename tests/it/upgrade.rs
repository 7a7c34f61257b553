//! A server meets what servers of the layout before have left, or still use.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support::{Client, Pod, eventually, postgres::Postgres, redis::RedisServer};

/// How long a recovery lasts in this test.
const RECOVERY: Duration = Duration::from_secs(6);

/// Leaves what a server of the layout before leaves that was there just now, and
/// the last fence that it gave.
fn leave(redis: &RedisServer, last: u64) {
    redis.cli(&["SET", "lockable:1:{0}:home:", "run replication 1"]);
    redis.cli(&["SET", "lockable:1:{0}:clock:", &last.to_string()]);
    redis.cli(&["ZADD", "lockable:1:{0}:pods:", &(now_us() / 1000 + 3_600_000).to_string(), "the other"]);
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

async fn acquired(client: &Client) -> serde_json::Value {
    client.get("/v1/acquire/new?owner=bob&lease=1s").await.json
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_granted_beside_servers_of_the_layout_before_nor_before_their_leases_have_lapsed() {
    let (redis, postgres) = (RedisServer::start(), Postgres::database().await);
    let start = || Pod::builder().redis(&redis).database(&postgres.url).env("LOCKABLE_JOURNAL_ABOVE", "1s").start();
    let mut before = start().await;
    let token = before.account("business").await.token;
    let long = before.client(&token).get("/v1/acquire/long?owner=ana&lease=1h").await.json;
    assert_eq!(long["response"], true);
    assert_eq!(before.stop().await, Some(0));
    redis.cli(&["FLUSHALL"]);
    let ahead = now_us() + 3_600_000_000;
    leave(&redis, ahead);

    let pods = [start().await, start().await];
    let clients = pods.each_ref().map(|pod| pod.client(&token));
    let begun = Instant::now();
    while begun.elapsed() < RECOVERY + Duration::from_secs(2) {
        for client in &clients {
            assert_ne!(acquired(client).await["response"], true);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(pods[0].log().contains("servers of an earlier version are there"), "{}", pods[0].log());

    redis.cli(&["DEL", "lockable:1:{0}:pods:"]);
    let gone = Instant::now();
    eventually(async || acquired(&clients[0]).await["response"] == true).await;
    assert!(gone.elapsed() >= RECOVERY, "it took {:?}", gone.elapsed());
    let granted = acquired(&clients[0]).await;
    assert!(granted["fencing_token"].as_u64().unwrap() > ahead, "fences go on rising: {granted}");
    eventually(async || clients[1].get("/v1/acquire/long?owner=eve").await.status == 200).await;
    let kept = clients[1].get("/v1/acquire/long?owner=eve").await.json;
    assert_eq!((&kept["reason"], &kept["holder"]["owner"]), (&"held".into(), &"ana".into()), "{kept}");

    // The other cannot come back: what it asks for first, and what each of its
    // grants needs, is of another kind.
    for key in ["lockable:1:{0}:home:", "lockable:1:{0}:clock:"] {
        assert_eq!(redis.cli(&["TYPE", key]).trim(), "hash", "{key}");
    }
}

/// The database may be new, and say nothing of what was granted before.
#[tokio::test(flavor = "multi_thread")]
async fn leases_of_the_layout_before_lapse_though_the_database_knows_of_none() {
    let (redis, postgres) = (RedisServer::start(), Postgres::database().await);
    leave(&redis, now_us());
    redis.cli(&["DEL", "lockable:1:{0}:pods:"]);
    let begun = Instant::now();
    let pod = Pod::builder().redis(&redis).database(&postgres.url).env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await;
    let client = pod.client(&pod.account("business").await.token);
    eventually(async || acquired(&client).await["response"] == true).await;
    assert!(begun.elapsed() >= RECOVERY, "it took {:?}", begun.elapsed());
}
