//! What whoever can write to Redis can make of the cache of tokens.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::support::{Cluster, Pod, eventually};

/// Under which key Redis has what is kept of a token.
fn key(token: &str) -> String {
    let hash: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("lockable:1:{{accounts}}:token:{hash}")
}

fn entry(cluster: &Cluster, token: &str) -> String {
    cluster.redis.cli(&["--raw", "GET", &key(token)]).trim_end_matches('\n').to_owned()
}

fn write(cluster: &Cluster, token: &str, entry: &str) {
    assert_eq!(cluster.redis.cli(&["SET", &key(token), entry]).trim(), "OK");
}

/// Tokens of an account that are in Redis, and in the memory of the first server alone.
async fn cached(cluster: &Cluster, count: usize) -> Vec<String> {
    let account = cluster.account("business").await;
    let mut tokens = Vec::new();
    for _ in 0..count {
        let made = cluster.operator(&["token", "create", "--account", &account.email]).await;
        tokens.push(made["token"].as_str().unwrap().to_owned());
    }
    for pod in &cluster.pods {
        pod.follow_changes().await;
    }
    for token in &tokens {
        assert_eq!(cluster.pods[0].client(token).get("/v1/account").await.status, 200);
        eventually(async || !entry(cluster, token).is_empty()).await;
    }
    tokens
}

async fn rejected(pod: &Pod) -> u64 {
    pod.metric("lockable_token_cache_rejected_total").await.unwrap_or_default() as u64
}

async fn looked_up(pod: &Pod) -> u64 {
    pod.metric("lockable_token_lookups_total{source=\"database\"}").await.unwrap_or_default() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_to_redis_makes_no_token() {
    let cluster = Cluster::start(2).await;
    let pod = &cluster.pods[1];
    let forgeries: [fn(&str, &str, &str) -> String; 8] = [
        // It may do more, for longer, or at another rate.
        |seq, account, text| format!("{seq} {account}\n{}", text.replace("\"manage\":false", "\"manage\":true")),
        |seq, account, text| format!("{seq} {account}\n{}", text.replace("\"read_at\":1", "\"read_at\":9")),
        |seq, account, text| format!("{seq} {account}\n{}", text.replace("\"burst\":2000", "\"burst\":2001")),
        // It is true up to another change, or until one of another account.
        |seq, account, text| format!("9{seq} {account}\n{text}"),
        |seq, account, text| format!("{seq} {}\n{text}", account.to_lowercase()),
        // It is not signed.
        |seq, account, text| format!("{seq} {account}\n{}", text.split_once(' ').unwrap().1),
        |seq, account, text| format!("{seq} {account}\n {}", text.split_once(' ').unwrap().1),
        |seq, account, _| format!("{seq} {account}\n"),
    ];
    let tokens = cached(&cluster, forgeries.len()).await;

    // A token of nobody, with all that a token of somebody may do.
    let invented = Uuid::new_v4().to_string();
    write(&cluster, &invented, &entry(&cluster, &tokens[0]));
    pod.client(&invented).get("/v1/account").await.assert_problem(401, "unauthenticated");
    assert!(rejected(pod).await > 0);

    for (token, forge) in tokens.iter().zip(forgeries) {
        let genuine = entry(&cluster, token);
        let (seq, rest) = genuine.split_once(' ').unwrap();
        let (account, text) = rest.split_once('\n').unwrap();
        let forged = forge(seq, account, text);
        assert_ne!(forged, genuine);
        write(&cluster, token, &forged);
        let before = rejected(pod).await;
        let client = pod.client(token);
        client.request("DELETE", "/v1/locks/x", &[]).await.assert_problem(403, "scope-missing");
        assert!(rejected(pod).await > before, "{forged}");
        // What is true is in Redis again.
        eventually(async || entry(&cluster, token).contains("\"manage\":false")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_of_the_cache_locks_nobody_out() {
    let cluster = Cluster::start(2).await;
    let pod = &cluster.pods[1];
    let token = cached(&cluster, 1).await.remove(0);
    let client = pod.client(&token);
    let before = looked_up(pod).await;
    assert_eq!(client.get("/v1/account").await.status, 200);
    assert_eq!((rejected(pod).await, looked_up(pod).await), (0, before), "Redis is believed");
    let keys = cluster.postgres.query("SELECT key FROM cache_key").unwrap();
    assert_eq!(keys.trim().len(), 64, "{keys}");

    // A server that starts without a key makes one, and what the others keep is nothing to it.
    cluster.postgres.query("DELETE FROM cache_key").unwrap();
    let third = Pod::builder().redis(&cluster.redis).database(&cluster.postgres.url).start().await;
    assert_eq!(third.client(&token).get("/v1/account").await.status, 200);
    assert!(rejected(&third).await > 0);
    assert_eq!(looked_up(&third).await, 1);
    assert_ne!(cluster.postgres.query("SELECT key FROM cache_key").unwrap(), keys);
    for pod in &cluster.pods {
        assert_eq!(pod.client(&token).get("/v1/account").await.status, 200);
    }
}
