//! The number of Redis commands and SQL queries per request, by the servers' own statistics.

use std::collections::HashMap;

use crate::support::{Client, Cluster, eventually};

/// Returns the number of calls of each Redis command.
fn commands(cluster: &Cluster) -> HashMap<String, u64> {
    let stats = cluster.redis.cli(&["INFO", "commandstats"]);
    let count = |line: &str| {
        let (command, figures) = line.trim().strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((command.to_owned(), figures.split(',').next()?.parse().ok()?))
    };
    stats.lines().filter_map(count).collect()
}

async fn rounds(client: &Client, count: usize) {
    for round in 0..count {
        for operation in ["acquire", "heartbeat", "release"] {
            let answer = client.get(&format!("/v1/{operation}/hot-{round}")).await;
            assert_eq!((answer.status, &answer.json["response"]), (200, &true.into()), "{}", answer.text);
        }
    }
}

/// The script of the lock charges the rate of a small plan. For a large plan the server draws credits
/// in batches.
#[tokio::test(flavor = "multi_thread")]
async fn request_takes_one_round_trip_to_redis_and_none_to_sql() {
    for plan in ["hobbyist", "business"] {
        let cluster = Cluster::start(1).await;
        cluster.operator(&["plan", "set", "hobbyist", "--burst", "1000"]).await;
        let client = cluster.pods[0].client(&cluster.account(plan).await.token);
        // Background work also calls scripts and queries: the server reads the change of the new
        // account, looks its token up again, refreshes cache entries after some seconds, and draws
        // credits. Repeat until 60 requests run without such work.
        eventually(async || {
            let (commands_before, queries_before) = (commands(&cluster), cluster.postgres.account_queries());
            rounds(&client, 20).await;
            let (commands_after, queries_after) = (commands(&cluster), cluster.postgres.account_queries());
            let called =
                |command: &str| commands_after.get(command).unwrap_or(&0) - commands_before.get(command).unwrap_or(&0);
            let asked = called("evalsha") + called("eval");
            assert!(asked >= 60, "{plan}: {asked} scripts for 60 requests");
            asked <= 64 && queries_after == queries_before
        })
        .await;
    }
}
