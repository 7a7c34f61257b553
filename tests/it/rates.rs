//! Rates and lock quotas of plans, across all servers.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lockable::lock::Rate;
use tokio::task::JoinSet;

use crate::support::{Client, Cluster, Pod, eventually};

/// The routes that count toward the rate.
const ROUTES: [&str; 6] =
    ["/v1/locks", "/v1/account", "/v1/locks/any", "/v1/acquire/any", "/v1/heartbeat/any", "/v1/release/any"];

/// Returns another route with the same rate. Heartbeats and releases have their own rate.
fn beside(path: &str) -> &'static str {
    match path {
        "/v1/heartbeat/any" => "/v1/release/any",
        "/v1/release/any" => "/v1/heartbeat/any",
        _ => "/v1/locks/any",
    }
}

/// Sends requests as fast as possible until `end`, round-robin over the clients. Returns the times
/// at which accepted requests were answered.
async fn hammer(clients: &[Client], workers: usize, end: Instant) -> Vec<Instant> {
    let mut tasks = JoinSet::new();
    for worker in 0..workers {
        let client = clients[worker % clients.len()].clone();
        tasks.spawn(async move {
            let mut admitted = Vec::new();
            while Instant::now() < end {
                let answer = client.get(&format!("/v1/heartbeat/rate-{worker}")).await;
                match answer.status {
                    200 => admitted.push(Instant::now()),
                    _ => {
                        answer.assert_problem(429, "rate-limited");
                        assert!(answer.header("retry-after").is_some());
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
            admitted
        });
    }
    let mut admitted = tasks.join_all().await.concat();
    admitted.sort();
    admitted
}

/// Returns the largest number of accepted requests within any `window`.
fn most_within(admitted: &[Instant], window: Duration) -> usize {
    (0..admitted.len())
        .map(|first| admitted[first..].iter().take_while(|at| **at - admitted[first] < window).count())
        .max()
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn small_plan_is_limited_across_all_servers() {
    let cluster = Cluster::start(3).await;
    let token = cluster.account("hobbyist").await.token;
    let clients: Vec<_> = cluster.pods.iter().map(|pod| pod.client(&token)).collect();
    let start = Instant::now();
    let admitted = hammer(&clients, 12, start + Duration::from_secs(12)).await;

    let at_once = admitted.iter().filter(|at| **at - start < Duration::from_secs(1)).count();
    assert!((50..=60).contains(&at_once), "a burst of 50, and 10 in the second: {at_once}");
    // The client sees a response a little after the server counted the request, so that a window of
    // the client may begin late.
    let most = most_within(&admitted, Duration::from_secs(10));
    assert!(most <= 50 + 10 * 10 + 2, "{most} requests in ten seconds");
    assert!(admitted.len() >= 50 + 11 * 10 - 5, "{} requests in twelve seconds", admitted.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_plan_is_limited_across_all_servers() {
    let cluster = Cluster::start(3).await;
    cluster.operator(&["plan", "set", "business", "--rate", "200", "--burst", "400"]).await;
    let token = cluster.account("business").await.token;
    let clients: Vec<_> = cluster.pods.iter().map(|pod| pod.client(&token)).collect();
    let start = Instant::now();
    let admitted = hammer(&clients, 24, start + Duration::from_secs(11)).await;
    let most = most_within(&admitted, Duration::from_secs(10));
    assert!(most <= 400 + 10 * 200 + 20, "{most} requests in ten seconds");
    assert!(
        admitted.len() >= 400 + 10 * 200 - 100,
        "{} requests in eleven seconds: the server wasted credits",
        admitted.len()
    );
}

#[tokio::test]
async fn lock_quota_is_enforced_and_freed_on_expiry() {
    let pod = Pod::start().await;
    pod.operator(&["plan", "set", "business", "--locks", "3"]).await;
    let client = pod.client(&pod.account("business").await.token);
    for (name, lease) in [("a", "1h"), ("b", "1h"), ("c", "1s")] {
        assert_eq!(client.get(&format!("/v1/acquire/{name}?owner=o&lease={lease}")).await.json["response"], true);
    }
    let refused = client.get("/v1/acquire/d").await;
    refused.assert_problem(429, "too-many-locks");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(client.get("/v1/acquire/a?owner=o").await.json["response"], true, "an acquire of a held lock");
    assert_eq!(client.get("/v1/heartbeat/b?owner=o").await.json["response"], true);

    eventually(async || client.get("/v1/acquire/d?lease=1h").await.status == 200).await;
    client.get("/v1/acquire/e").await.assert_problem(429, "too-many-locks");
    assert_eq!(client.get("/v1/release/d").await.json["response"], true);
    assert_eq!(client.get("/v1/acquire/e").await.json["response"], true);
}

#[tokio::test]
async fn index_forgets_names_of_expired_locks() {
    let cluster = Cluster::start(1).await;
    cluster.operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    let acquire_all = async |round: &str, lease: &str| {
        for number in 0..300 {
            let path = format!("/v1/acquire/{round}-{number}?lease={lease}");
            assert_eq!(client.get(&path).await.json["response"], true);
        }
    };
    // One held lock keeps the index alive.
    assert_eq!(client.get("/v1/acquire/always?lease=1h").await.json["response"], true);
    acquire_all("once", "1s").await;
    eventually(async || client.get("/v1/locks/once-299").await.json["held"] == false).await;
    acquire_all("now", "1h").await;
    let count = "return redis.call('ZCARD', redis.call('KEYS', '*:held:*')[1])";
    let indexed: u32 = cluster.redis.cli(&["eval", count, "0"]).trim().parse().unwrap();
    assert!((301..301 + 256).contains(&indexed), "the index has {indexed} entries for 301 locks");
}

/// Each script removes only some expired locks, yet counts all of them.
#[tokio::test]
async fn locks_that_expire_together_leave_the_quota() {
    let cluster = Cluster::start(1).await;
    let embedded = Pod::start().await;
    for pod in [&cluster.pods[0], &embedded] {
        pod.operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000", "--locks", "300"]).await;
        let client = pod.client(&pod.account("business").await.token);
        eventually(async || client.get("/v1/account").await.json["plan"]["locks_max"] == 300).await;
        for some in (0..300).collect::<Vec<_>>().chunks(50) {
            let lease = "lease=8s";
            let acquire = async |number: &i32| client.get(&format!("/v1/acquire/lapses-{number}?{lease}")).await;
            let answers = join_all(some.iter().map(acquire)).await;
            assert!(answers.iter().all(|answer| answer.json["response"] == true), "{answers:?}");
        }
        client.get("/v1/acquire/more").await.assert_problem(429, "too-many-locks");
        eventually(async || client.get("/v1/locks/lapses-299").await.json["held"] == false).await;
        for number in 0..300 {
            let answer = client.get(&format!("/v1/acquire/next-{number}?lease=1h")).await;
            assert_eq!(answer.json["response"], true, "{number}: {}", answer.text);
        }
        client.get("/v1/acquire/more").await.assert_problem(429, "too-many-locks");
    }
}

#[tokio::test]
async fn rate_limit_headers_report_the_remaining_requests() {
    let pod = Pod::start().await;
    let client = pod.client(&pod.account("hobbyist").await.token);
    let remaining = async || {
        let answer = client.get("/v1/heartbeat/x").await;
        assert_eq!(answer.header("ratelimit-policy"), Some("\"account\";q=50;w=5"));
        let state = answer.header("ratelimit").unwrap().to_owned();
        let remaining = state.strip_prefix("\"account\";r=").and_then(|rest| rest.split(';').next());
        (answer.status, remaining.unwrap().parse::<u32>().unwrap())
    };
    assert_eq!(remaining().await, (200, 49));
    assert!((46..=48).contains(&remaining().await.1));
    let last = loop {
        let (status, remaining) = remaining().await;
        if status == 429 {
            break remaining;
        }
    };
    assert_eq!(last, 0);
    eventually(async || client.get("/v1/heartbeat/x").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_counts_toward_the_rate_of_its_account() {
    let cluster = Cluster::start(1).await;
    cluster.operator(&["plan", "set", "hobbyist", "--rate", "1", "--burst", "3"]).await;
    let (ours, theirs) = (cluster.account("hobbyist").await, cluster.account("hobbyist").await);
    let [ours, theirs] = [ours, theirs].map(|account| cluster.pods[0].client(&account.token));
    for path in ROUTES {
        // Repeat until the bucket is empty, however slow this test is.
        eventually(async || ours.get(path).await.status == 429).await;
    }
    assert_eq!(theirs.get("/v1/heartbeat/any").await.status, 200, "each account has its own rate");
}

/// Regression: an account with 200 tokens had 200 times the rate of its plan.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_an_account_share_one_rate_across_servers() {
    let cluster = Cluster::start(2).await;
    let (plan, large) = (Rate { per_second: 10, burst: 50 }, Rate { per_second: 100, burst: 400 });
    cluster.operator(&["plan", "set", "business", "--rate", "100", "--burst", "400"]).await;
    for (name, Rate { per_second, burst }) in [("hobbyist", plan), ("business", large)] {
        let account = cluster.account(name).await;
        let mut clients = Vec::new();
        for number in 0..6 {
            let made = cluster.operator(&["token", "create", "--account", &account.email]).await;
            clients.push(cluster.pods[number % 2].client(made["token"].as_str().unwrap()));
        }
        let start = Instant::now();
        let admitted = hammer(&clients, 12, start + Duration::from_secs(6)).await.len();
        let seconds = start.elapsed().as_secs_f64();
        let most = f64::from(burst) + f64::from(per_second) * (seconds + 0.2);
        assert!(admitted as f64 <= most, "{name}: {admitted} requests of six tokens in {seconds} s");
        assert!(admitted as f64 >= most * 0.8, "{name}: {admitted} requests; the server wasted credits");
        let other = cluster.pods[0].client(&cluster.account(name).await.token);
        assert_eq!(other.get("/v1/heartbeat/any").await.status, 200, "each account has its own rate");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_one_server_count_on_all_servers() {
    let cluster = Cluster::start(2).await;
    cluster.operator(&["plan", "set", "hobbyist", "--rate", "1", "--burst", "60"]).await;
    for path in ROUTES {
        let token = cluster.account("hobbyist").await.token;
        let [here, there] = [0, 1].map(|pod| cluster.pods[pod].client(&token));
        let begun = Instant::now();
        for _ in 0..30 {
            assert_eq!(here.get(path).await.status, 200);
        }
        let answer = there.get(beside(path)).await;
        let state = answer.header("ratelimit").unwrap();
        let remaining: u64 = state.split(['=', ';']).nth(2).unwrap().parse().unwrap();
        assert!(remaining <= 29 + begun.elapsed().as_secs() + 1, "{path}: {state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_exhausted_on_one_server_is_limited_on_another() {
    let cluster = Cluster::start(2).await;
    cluster.operator(&["plan", "set", "hobbyist", "--rate", "1", "--burst", "9"]).await;
    for path in ROUTES {
        let token = cluster.account("hobbyist").await.token;
        let [here, there] = [0, 1].map(|pod| cluster.pods[pod].client(&token));
        // The other server may grant what was refilled in between.
        eventually(async || {
            while here.get(beside(path)).await.status != 429 {}
            let answer = there.get(path).await;
            if answer.status == 200 {
                return false;
            }
            answer.assert_problem(429, "rate-limited");
            assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
            true
        })
        .await;
    }
}

/// Twenty pollers exhaust the rate of a small plan; the holder with the same token still renews and
/// releases its lock, on each store.
#[tokio::test(flavor = "multi_thread")]
async fn polling_never_starves_heartbeats_and_releases() {
    let (cluster, embedded) = (Cluster::start(1).await, Pod::start().await);
    for pod in [&cluster.pods[0], &embedded] {
        let client = pod.client(&pod.account("hobbyist").await.token);
        assert_eq!(client.get("/v1/acquire/held?owner=holder").await.json["response"], true);
        let mut pollers = JoinSet::new();
        for number in 0..20 {
            let client = client.clone();
            pollers.spawn(async move {
                loop {
                    client.get(&format!("/v1/acquire/held?owner=poller-{number}")).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
        eventually(async || client.get("/v1/acquire/held?owner=other").await.status == 429).await;
        for _ in 0..20 {
            let renewed = client.get("/v1/heartbeat/held?owner=holder").await;
            assert_eq!(renewed.json["response"], true, "{}", renewed.text);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let released = client.get("/v1/release/held?owner=holder").await;
        assert_eq!(released.json["response"], true, "{}", released.text);
        pollers.abort_all();
    }
}
