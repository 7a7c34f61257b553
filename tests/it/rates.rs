//! Rates and quotas of plans, over all pods.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lockable::lock::Rate;
use tokio::task::JoinSet;

use crate::support::{Client, Cluster, Pod, eventually};

/// What a token pays for.
const ROUTES: [&str; 6] =
    ["/v1/locks", "/v1/account", "/v1/locks/any", "/v1/acquire/any", "/v1/heartbeat/any", "/v1/release/any"];

/// Another route that is counted with one of these: heartbeats and releases have a rate
/// of their own.
fn beside(path: &str) -> &'static str {
    match path {
        "/v1/heartbeat/any" => "/v1/release/any",
        "/v1/release/any" => "/v1/heartbeat/any",
        _ => "/v1/locks/any",
    }
}

/// Asks as fast as it can over all clients by turns until `end`, and returns
/// when each request that got through was answered.
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

/// The largest number of requests that got through within any `window`.
fn most_within(admitted: &[Instant], window: Duration) -> usize {
    (0..admitted.len())
        .map(|first| admitted[first..].iter().take_while(|at| **at - admitted[first] < window).count())
        .max()
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_plan_has_its_burst_and_then_its_rate_over_all_pods_together() {
    let cluster = Cluster::start(3).await;
    let token = cluster.account("hobbyist").await.token;
    let clients: Vec<_> = cluster.pods.iter().map(|pod| pod.client(&token)).collect();
    let start = Instant::now();
    let admitted = hammer(&clients, 12, start + Duration::from_secs(12)).await;

    let at_once = admitted.iter().filter(|at| **at - start < Duration::from_secs(1)).count();
    assert!((50..=60).contains(&at_once), "a burst of 50, and 10 in the second: {at_once}");
    // The client sees an answer a little after it was counted, so a window of
    // the client's may begin a little late.
    let most = most_within(&admitted, Duration::from_secs(10));
    assert!(most <= 50 + 10 * 10 + 2, "{most} in ten seconds");
    assert!(admitted.len() >= 50 + 11 * 10 - 5, "{} in twelve seconds", admitted.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_plan_is_kept_over_all_pods_though_they_draw_permits() {
    let cluster = Cluster::start(3).await;
    cluster.operator(&["plan", "set", "business", "--rate", "200", "--burst", "400"]).await;
    let token = cluster.account("business").await.token;
    let clients: Vec<_> = cluster.pods.iter().map(|pod| pod.client(&token)).collect();
    let start = Instant::now();
    let admitted = hammer(&clients, 24, start + Duration::from_secs(11)).await;
    let most = most_within(&admitted, Duration::from_secs(10));
    assert!(most <= 400 + 10 * 200 + 20, "{most} in ten seconds");
    assert!(admitted.len() >= 400 + 10 * 200 - 100, "{} in eleven seconds: permits were wasted", admitted.len());
}

#[tokio::test]
async fn an_account_holds_as_many_locks_as_its_plan_allows_and_heals_when_they_lapse() {
    let pod = Pod::start().await;
    pod.operator(&["plan", "set", "business", "--locks", "3"]).await;
    let client = pod.client(&pod.account("business").await.token);
    for (name, lease) in [("a", "1h"), ("b", "1h"), ("c", "1s")] {
        assert_eq!(client.get(&format!("/v1/acquire/{name}?owner=o&lease={lease}")).await.json["response"], true);
    }
    let refused = client.get("/v1/acquire/d").await;
    refused.assert_problem(429, "too-many-locks");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(client.get("/v1/acquire/a?owner=o").await.json["response"], true, "one that is held already");
    assert_eq!(client.get("/v1/heartbeat/b?owner=o").await.json["response"], true);

    eventually(async || client.get("/v1/acquire/d?lease=1h").await.status == 200).await;
    client.get("/v1/acquire/e").await.assert_problem(429, "too-many-locks");
    assert_eq!(client.get("/v1/release/d").await.json["response"], true);
    assert_eq!(client.get("/v1/acquire/e").await.json["response"], true);
}

#[tokio::test]
async fn names_that_were_used_once_are_forgotten() {
    let cluster = Cluster::start(1).await;
    cluster.operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    let acquire_all = async |round: &str, lease: &str| {
        for number in 0..300 {
            let path = format!("/v1/acquire/{round}-{number}?lease={lease}");
            assert_eq!(client.get(&path).await.json["response"], true);
        }
    };
    // While one is held, the index stays.
    assert_eq!(client.get("/v1/acquire/always?lease=1h").await.json["response"], true);
    acquire_all("once", "1s").await;
    eventually(async || client.get("/v1/locks/once-299").await.json["held"] == false).await;
    acquire_all("now", "1h").await;
    let count = "return redis.call('ZCARD', redis.call('KEYS', '*:held:*')[1])";
    let indexed: u32 = cluster.redis.cli(&["eval", count, "0"]).trim().parse().unwrap();
    assert!((301..301 + 256).contains(&indexed), "{indexed} places are kept for 301 locks");
}

/// However many lapse at once, a script takes out a few of them, and counts them right.
#[tokio::test]
async fn locks_that_lapse_together_count_no_longer() {
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
async fn the_headers_say_how_an_account_stands() {
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
async fn every_route_is_counted_and_each_account_by_itself() {
    let cluster = Cluster::start(1).await;
    cluster.operator(&["plan", "set", "hobbyist", "--rate", "1", "--burst", "3"]).await;
    let (ours, theirs) = (cluster.account("hobbyist").await, cluster.account("hobbyist").await);
    let [ours, theirs] = [ours, theirs].map(|account| cluster.pods[0].client(&account.token));
    for path in ROUTES {
        // Until the bucket is empty, however slow this test is.
        eventually(async || ours.get(path).await.status == 429).await;
    }
    assert_eq!(theirs.get("/v1/heartbeat/any").await.status, 200, "another account's rate is its own");
}

/// Found: an account that made 200 tokens had 200 times the rate of its plan.
#[tokio::test(flavor = "multi_thread")]
async fn all_tokens_of_an_account_share_one_rate_over_all_servers() {
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
        assert!(admitted as f64 >= most * 0.8, "{name}: {admitted} requests, permits were wasted");
        let other = cluster.pods[0].client(&cluster.account(name).await.token);
        assert_eq!(other.get("/v1/heartbeat/any").await.status, 200, "another account's rate is its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_is_asked_counts_for_all() {
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
async fn what_was_used_up_at_one_server_is_refused_by_another() {
    let cluster = Cluster::start(2).await;
    cluster.operator(&["plan", "set", "hobbyist", "--rate", "1", "--burst", "9"]).await;
    for path in ROUTES {
        let token = cluster.account("hobbyist").await.token;
        let [here, there] = [0, 1].map(|pod| cluster.pods[pod].client(&token));
        // What is refilled in between may be had there.
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

/// Twenty pollers use up the rate of a small plan; the holder of the same token renews
/// and releases its lock all the same, on each store.
#[tokio::test(flavor = "multi_thread")]
async fn polls_of_a_token_never_starve_its_heartbeats_and_releases() {
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
