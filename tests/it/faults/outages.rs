//! Redis, the network, the database or a server is unavailable for a while; no data is lost.

use std::time::{Duration, Instant};

use super::{WorkloadConfig, clients, cluster, durable, run_with_fault};
use crate::support::{
    Pod, eventually, exclusive_cpu,
    postgres::Postgres,
    proxy::{NetworkFault, Proxy},
};

/// The maximum time until service resumes after an outage without data loss: a few connection
/// attempts.
const RESUME_MAX: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_paused_for_five_seconds() {
    let cluster = cluster().await;
    let clients = clients(&cluster.pods).await;
    let outcome = run_with_fault("stopped for 5 s", &clients, WorkloadConfig::default(), async || {
        cluster.redis.pause();
        tokio::time::sleep(Duration::from_secs(5)).await;
        cluster.redis.resume();
    })
    .await;
    assert_eq!(outcome.tally.recovering, 0, "nothing was lost: {:?}", outcome.tally);
    assert!(outcome.tally.unavailable > 0 && outcome.resumed_after < RESUME_MAX, "{:?}", outcome.resumed_after);
}

/// Every network fault between a server and Redis.
#[tokio::test(flavor = "multi_thread")]
async fn network_to_redis_fails_in_every_mode() {
    let redis = durable().start();
    let postgres = Postgres::database().await;
    let proxy = Proxy::start(redis.port()).await;
    let pod = async |url: &str| {
        let pod = Pod::builder().env("LOCKABLE_REDIS_URL", url).database(&postgres.url);
        pod.env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await
    };
    let pods = [pod(&proxy.url()).await, pod(&redis.url()).await];
    let clients = clients(&pods).await;
    let faults: [(&str, NetworkFault); 6] = [
        ("black hole", Proxy::black_hole),
        ("answers lost", Proxy::drop_responses),
        ("half open", Proxy::half_open),
        ("refused", Proxy::refuse),
        ("slow", Proxy::slow),
        ("cut", |proxy| proxy.cut_after(1000)),
    ];
    for (name, fault) in faults {
        let outcome = run_with_fault(name, &clients, WorkloadConfig::default(), async || {
            fault(&proxy);
            tokio::time::sleep(Duration::from_secs(2)).await;
            proxy.pass();
        })
        .await;
        assert_eq!(outcome.tally.recovering, 0, "{name}: nothing was lost: {:?}", outcome.tally);
        assert!(outcome.resumed_after < RESUME_MAX, "{name}: {:?}", outcome.resumed_after);
        eventually(async || clients[0].get("/v1/heartbeat/any").await.status == 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_a_lost_response_returns_the_same_grant() {
    let cluster = cluster().await;
    let clients = clients(&cluster.pods).await;
    let (_, port) =
        cluster.pods[0].origin().rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    let proxy = Proxy::start(port.parse().unwrap()).await;
    let path = "/v1/acquire/lost?owner=ana&lease=60s";
    let through = clients[0].with_origin(&format!("http://127.0.0.1:{}", proxy.port()));
    proxy.drop_responses();
    assert!(tokio::time::timeout(Duration::from_millis(500), through.try_get(path)).await.is_err());
    eventually(async || clients[1].get("/v1/locks/lost").await.json["held"] == true).await;
    let fence = clients[1].get("/v1/locks/lost").await.json["holder"]["fencing_token"].clone();
    proxy.pass();
    // A retry to either server returns the same grant.
    for client in [&through, &clients[1]] {
        let again = client.get(path).await;
        assert_eq!((&again.json["response"], &again.json["fencing_token"]), (&true.into(), &fence), "{}", again.text);
    }
}

/// Redis grants, the reply is lost, and the server returns 503: the server reverts the unconfirmed
/// grant.
#[tokio::test(flavor = "multi_thread")]
async fn grant_with_a_lost_reply_is_reverted() {
    let cluster = cluster().await;
    let proxy = Proxy::start(cluster.redis.port()).await;
    let isolated = Pod::builder().env("LOCKABLE_REDIS_URL", &proxy.url()).database(&cluster.postgres.url);
    let isolated = isolated.env("LOCKABLE_JOURNAL_ABOVE", "60s").start().await;
    let token = cluster.account("business").await.token;
    let (isolated, client) = (isolated.client(&token), cluster.pods[0].client(&token));
    assert_eq!(isolated.get("/v1/heartbeat/warm-up").await.status, 200);
    for (name, wait) in [("at-once", ""), ("waited-for", "&wait=1s")] {
        proxy.drop_responses();
        isolated
            .get(&format!("/v1/acquire/{name}?owner=isolated&lease=60s{wait}"))
            .await
            .assert_problem(503, "unavailable");
        proxy.pass();
        let path = format!("/v1/acquire/{name}?owner=another&lease=1s");
        eventually(async || client.get(&path).await.json["response"] == true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_full_loses_scripts_and_hangs_in_a_foreign_script() {
    let cluster = cluster().await;
    let clients = clients(&cluster.pods).await;
    let outcome = run_with_fault("maxmemory", &clients, WorkloadConfig::default(), async || {
        cluster.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    })
    .await;
    assert!(outcome.tally.unavailable > 0 && outcome.tally.recovering == 0, "{:?}", outcome.tally);

    let outcome = run_with_fault("SCRIPT FLUSH", &clients, WorkloadConfig::default(), async || {
        for _ in 0..50 {
            cluster.redis.cli(&["SCRIPT", "FLUSH"]);
        }
    })
    .await;
    assert_eq!((outcome.tally.unavailable, outcome.tally.recovering), (0, 0), "{:?}", outcome.tally);

    let outcome = run_with_fault("SCRIPT KILL", &clients, WorkloadConfig::default(), async || {
        cluster.redis.cli(&["CONFIG", "SET", "busy-reply-threshold", "100"]);
        let port = cluster.redis.port().to_string();
        let mut script = tokio::process::Command::new("redis-cli");
        let mut script = script.args(["-p", &port, "EVAL", "while true do end", "0"]).spawn().unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        eventually(async || cluster.redis.cli(&["SCRIPT", "KILL"]).contains("OK")).await;
        script.wait().await.unwrap();
    })
    .await;
    assert_eq!(outcome.tally.recovering, 0, "{:?}", outcome.tally);
    assert!(outcome.resumed_after < RESUME_MAX, "{:?}", outcome.resumed_after);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_a_thousand_waiters_is_killed() {
    let _cpu = exclusive_cpu().await;
    let mut cluster = cluster().await;
    let clients = clients(&cluster.pods).await;
    assert_eq!(clients[1].get("/v1/acquire/queue?owner=first").await.json["response"], true);
    let waiting = (0..1000).map(|_| {
        let client = clients[0].clone();
        tokio::spawn(async move { client.try_get("/v1/acquire/queue?wait=50s").await })
    });
    let waiting: Vec<_> = waiting.collect();
    eventually(async || clients[1].get("/v1/locks/queue").await.json["waiting"] == 1000).await;
    let last = tokio::spawn({
        let client = clients[1].clone();
        async move { client.get("/v1/acquire/queue?owner=last&wait=50s").await }
    });
    eventually(async || clients[1].get("/v1/locks/queue").await.json["waiting"] == 1001).await;
    let outcome = run_with_fault("killed with 1,000 waiters", &clients[1..], WorkloadConfig::default(), async || {
        cluster.pods[0].kill();
    })
    .await;
    assert_eq!((outcome.tally.recovering, outcome.tally.unavailable), (0, 0), "{:?}", outcome.tally);
    let released = Instant::now();
    assert_eq!(clients[1].get("/v1/release/queue?owner=first").await.json["response"], true);
    let last = last.await.unwrap();
    assert_eq!(last.json["response"], true, "{}", last.text);
    println!("the first live waiter got the lock {:?} after the release", released.elapsed());
    for waiter in waiting {
        assert!(waiter.await.unwrap().is_none(), "a dead waiter was granted the lock");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pubsub_messages_are_lost() {
    let cluster = cluster().await;
    let clients = clients(&cluster.pods).await;
    let config = WorkloadConfig { wait: Duration::from_secs(5), ..WorkloadConfig::default() };
    let outcome = run_with_fault("no messages", &clients, config, async || {
        cluster.redis.cli(&["ACL", "SETUSER", "default", "resetchannels"]);
        cluster.redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.redis.cli(&["ACL", "SETUSER", "default", "allchannels"]);
    })
    .await;
    assert_eq!((outcome.tally.recovering, outcome.tally.unavailable), (0, 0), "{:?}", outcome.tally);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_loses_its_data_while_postgres_is_down() {
    let mut redis = durable().start();
    let mut postgres = Postgres::own().await;
    let pod = Pod::builder().redis(&redis).database(&postgres.url).env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await;
    let clients = clients(std::slice::from_ref(&pod)).await;
    let outcome = run_with_fault("postgres away", &clients, WorkloadConfig::default(), async || {
        postgres.stop();
        tokio::time::sleep(Duration::from_secs(3)).await;
    })
    .await;
    assert_eq!((outcome.tally.recovering, outcome.tally.unavailable), (0, 0), "no client noticed: {:?}", outcome.tally);
    let outcome = run_with_fault("redis lost without postgres", &clients, WorkloadConfig::default(), async || {
        redis.restart_empty();
        let refused = async || clients[0].get("/v1/acquire/any?lease=1s").await.json["reason"] == "recovering";
        eventually(refused).await;
        // The recovery cannot end before the servers can read the journal.
        tokio::time::sleep(Duration::from_secs(7)).await;
        // Without Redis and the database no server can authenticate the token.
        clients[0].get("/v1/acquire/any?lease=1s").await.assert_problem(503, "unavailable");
        postgres.start();
    })
    .await;
    assert!(outcome.tally.recovering > 0, "{:?}", outcome.tally);
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_server_is_stopped_or_killed_and_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("test.db").display());
    let port = crate::support::process::free_port();
    let start = async || {
        let pod = Pod::builder().database(&database).env("LOCKABLE_JOURNAL_ABOVE", "1s");
        pod.env("LOCKABLE_LISTEN", &format!("127.0.0.1:{port}")).start().await
    };
    let mut pod = start().await;
    let clients = [pod.client(&pod.first_token())];
    for (name, recovers) in [("embedded, stopped", false), ("embedded, killed", true)] {
        let outcome = run_with_fault(name, &clients, WorkloadConfig::default(), async || {
            if recovers {
                pod.kill();
            } else {
                assert_eq!(pod.stop().await, Some(0));
            }
            pod = start().await;
        })
        .await;
        assert_eq!(outcome.tally.recovering > 0, recovers, "{name}: {:?}", outcome.tally);
    }
}
