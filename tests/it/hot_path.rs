//! What a request costs Redis and SQL, by their own count.

use std::collections::HashMap;

use crate::support::{Client, Cluster, eventually};

/// How often each command was called, but for what servers ask once a second.
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

/// For a small plan, whose rate is counted in the script of the lock, and for a
/// large one.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_round_trip_to_redis_and_none_to_sql() {
    for plan in ["hobbyist", "business"] {
        let cluster = Cluster::start(1).await;
        cluster.operator(&["plan", "set", "hobbyist", "--burst", "1000"]).await;
        let client = cluster.pods[0].client(&cluster.account(plan).await.token);
        // The account is a change, of which the pod hears a little later, and
        // then reads the token anew; an entry is read again after some seconds,
        // and a token that is used much draws permits now and then, for heartbeats and
        // releases apart from the rest. Between
        // these there are sixty requests that cost what they should.
        eventually(async || {
            let (commands_before, queries_before) = (commands(&cluster), cluster.postgres.queries_of_accounts());
            rounds(&client, 20).await;
            let (commands_after, queries_after) = (commands(&cluster), cluster.postgres.queries_of_accounts());
            let called =
                |command: &str| commands_after.get(command).unwrap_or(&0) - commands_before.get(command).unwrap_or(&0);
            let asked = called("evalsha") + called("eval");
            assert!(asked >= 60, "{plan}: {asked} scripts for 60 requests");
            asked <= 64 && queries_after == queries_before
        })
        .await;
    }
}
