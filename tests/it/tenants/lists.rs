use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::{Client, Cluster, Pod, Response, eventually};

async fn hold(client: &Client, count: usize) {
    for some in (0..count).collect::<Vec<_>>().chunks(20) {
        let acquire = async |number: &usize| client.get(&format!("/v1/acquire/lock-{number}?lease=1h")).await;
        let answers = join_all(some.iter().map(acquire)).await;
        assert!(answers.iter().all(|answer| answer.json["response"] == true), "{answers:?}");
    }
}

fn names(answer: &Response) -> Vec<String> {
    let locks = answer.json["locks"].as_array().unwrap_or_else(|| panic!("{}", answer.text));
    locks.iter().map(|lock| lock["name"].as_str().unwrap().to_owned()).collect()
}

/// Returns the remaining requests of the header `RateLimit`.
fn remaining(answer: &Response) -> u32 {
    let field = answer.header("ratelimit").unwrap();
    field.split(';').find_map(|part| part.strip_prefix("r=")).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_twenty_listed_locks_cost_one_request() {
    let cluster = Cluster::start(1).await;
    let embedded = Pod::start().await;
    for pod in [&cluster.pods[0], &embedded] {
        let client = pod.client(&pod.account("business").await.token);
        hold(&client, 100).await;
        pod.operator(&["plan", "set", "business", "--rate", "1", "--burst", "30"]).await;
        eventually(async || client.get("/v1/account").await.json["plan"]["burst"] == 30).await;
        for (query, locks, cost) in [("limit=100", 100, 5), ("limit=30", 30, 2), ("limit=1", 1, 1), ("", 100, 5)] {
            let before = remaining(&client.get("/v1/account").await);
            let page = client.get(&format!("/v1/locks?{query}")).await;
            assert_eq!(names(&page).len(), locks);
            // One or two requests may have been refilled in between.
            let paid = before - remaining(&page);
            assert!((cost - paid.min(cost)) <= 2 && paid <= cost, "{query} cost {paid}");
        }
        // A page ends when the rate is used up, and the next page continues from there.
        while remaining(&client.get("/v1/account").await) > 2 {}
        let (mut seen, mut cursor, mut is_cut_off) = (BTreeSet::new(), String::new(), false);
        loop {
            let mut answer = None;
            let path = format!("/v1/locks?limit=100{cursor}");
            eventually(async || answer.insert(client.get(&path).await).status == 200).await;
            let page = answer.unwrap();
            is_cut_off |= names(&page).len() < 100;
            assert!(names(&page).into_iter().all(|name| seen.insert(name)), "a lock was listed twice");
            match &page.json["next_cursor"] {
                Value::Null => break,
                next => cursor = format!("&cursor={}", next.as_str().unwrap()),
            }
        }
        assert_eq!((seen.len(), is_cut_off), (100, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_list_runs_many_short_scripts() {
    let cluster = Cluster::start(1).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    hold(&client, 1000).await;
    let calls = |command: &str| -> u32 {
        let stats = cluster.redis.cli(&["info", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix(&*format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    };
    let (scripts, gets) = (calls("evalsha"), calls("get"));
    let page = client.get("/v1/locks?limit=1000").await;
    let (scripts, gets) = (calls("evalsha") - scripts, calls("get") - gets);
    let unique: BTreeSet<String> = names(&page).into_iter().collect();
    assert_eq!((unique.len(), &page.json["next_cursor"]), (1000, &Value::Null));
    assert!(gets >= 1000, "{gets} grants were read");
    assert!((100..200).contains(&scripts), "{scripts} scripts");
}
