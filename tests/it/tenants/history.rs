use futures_util::future::join_all;

use crate::support::{Cluster, Pod, eventually, exclusive_cpu};

/// The locks that each server uses per round, nearly the number of grants that a server writes to
/// the history per second; and the rounds.
const LOCKS: usize = 45;
const ROUNDS: usize = 14;

/// Acquires and releases locks with the longest names, owners and notes.
async fn use_locks(pod: &Pod, at: usize, token: &str, owner: &str) {
    let client = &pod.client(token);
    let note = &"\u{1f512}".repeat(125);
    join_all((0..LOCKS).map(async |number| {
        let name = name(at, number);
        let granted = client.get(&format!("/v1/acquire/{name}?owner={owner}&note={note}")).await;
        assert_eq!(granted.json["response"], true, "{}", granted.text);
        client.get(&format!("/v1/release/{name}?owner={owner}")).await;
    }))
    .await;
}

fn name(at: usize, number: usize) -> String {
    format!("{at}{number:0>199}")
}

#[tokio::test(flavor = "multi_thread")]
async fn history_of_an_account_stays_within_the_documented_memory() {
    let _cpu = exclusive_cpu().await;
    let cluster = Cluster::start(4).await;
    let token = cluster.account("business").await.token;
    let key = |kind: &str| cluster.redis.cli(&["keys", &format!("*:{kind}:*")]).trim().to_owned();
    let mut most = 0;
    for round in 0..ROUNDS {
        let owner = &format!("{round:02}{}", "\u{1f511}".repeat(63));
        let using = cluster.pods.iter().enumerate().map(|(at, pod)| use_locks(pod, at, &token, owner));
        join_all(using).await;
        let is_recorded = |at| {
            let lock_key = format!("-/{}", name(at, LOCKS - 1));
            cluster.redis.cli(&["hget", &key("history"), &lock_key]).contains(owner)
        };
        eventually(async || (0..cluster.pods.len()).all(is_recorded)).await;
        let taken = ["history", "recorded"].map(|kind| {
            let taken = cluster.redis.cli(&["memory", "usage", &key(kind), "samples", "0"]);
            taken.trim().parse::<u64>().unwrap()
        });
        most = most.max(taken.iter().sum());
    }
    println!("{most} bytes");
    assert!(most > 900_000, "{most} bytes: the limit was not reached");
    assert!(most <= 3 * 1024 * 1024 / 2, "{most} bytes");
}
