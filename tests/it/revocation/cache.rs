//! Attacks on the token cache by a client that can write to Redis.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::support::{Cluster, Pod, eventually};

/// Returns the Redis key of the cache entry of a token.
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

/// Returns tokens that are cached in Redis and in the memory of the first server only.
async fn cached(cluster: &Cluster, count: usize) -> Vec<String> {
    let account = cluster.account("business").await;
    let mut tokens = Vec::new();
    for _ in 0..count {
        let made = cluster.operator(&["token", "create", "--account", &account.email]).await;
        tokens.push(made["token"].as_str().unwrap().to_owned());
    }
    for pod in &cluster.pods {
        pod.wait_for_changes().await;
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
async fn forged_cache_entries_are_rejected() {
    let cluster = Cluster::start(2).await;
    let pod = &cluster.pods[1];
    let forgeries: [fn(&str, &str, &str) -> String; 8] = [
        // More scopes, a later time of reading, another rate.
        |seq, account, text| format!("{seq} {account}\n{}", text.replace("\"manage\":false", "\"manage\":true")),
        |seq, account, text| format!("{seq} {account}\n{}", text.replace("\"read_at\":1", "\"read_at\":9")),
        |seq, account, text| format!("{seq} {account}\n{}", text.replace("\"burst\":2000", "\"burst\":2001")),
        // Another revision, or another account.
        |seq, account, text| format!("9{seq} {account}\n{text}"),
        |seq, account, text| format!("{seq} {}\n{text}", account.to_lowercase()),
        // No signature.
        |seq, account, text| format!("{seq} {account}\n{}", text.split_once(' ').unwrap().1),
        |seq, account, text| format!("{seq} {account}\n {}", text.split_once(' ').unwrap().1),
        |seq, account, _| format!("{seq} {account}\n"),
    ];
    let tokens = cached(&cluster, forgeries.len()).await;

    // An invented token with the entry of a valid one.
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
        // The server writes the correct entry again.
        eventually(async || entry(&cluster, token).contains("\"manage\":false")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_cache_key_keeps_tokens_valid() {
    let cluster = Cluster::start(2).await;
    let pod = &cluster.pods[1];
    let token = cached(&cluster, 1).await.remove(0);
    let client = pod.client(&token);
    let before = looked_up(pod).await;
    assert_eq!(client.get("/v1/account").await.status, 200);
    assert_eq!((rejected(pod).await, looked_up(pod).await), (0, before), "the entry of Redis is accepted");
    let keys = cluster.postgres.query("SELECT key FROM cache_key").unwrap();
    assert_eq!(keys.trim().len(), 64, "{keys}");

    // A server without a key creates a new one, and ignores the entries of other servers.
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
