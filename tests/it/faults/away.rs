//! Redis, the network, the database or a server is away for a while, and nothing
//! is lost.

use std::time::{Duration, Instant};

use super::{Wanted, clients, cluster, durable, tried};
use crate::support::{
    Pod, crowd_turn, eventually,
    postgres::Postgres,
    proxy::{Break, Proxy},
};

/// How soon service must be back when nothing was lost: a few tries to connect.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn redis_stands_still_for_five_seconds() {
    let cluster = cluster().await;
    let clients = clients(&cluster.pods).await;
    let trial = tried("stopped for 5 s", &clients, Wanted::default(), async || {
        cluster.redis.pause();
        tokio::time::sleep(Duration::from_secs(5)).await;
        cluster.redis.resume();
    })
    .await;
    assert_eq!(trial.tally.recovering, 0, "nothing was lost: {:?}", trial.tally);
    assert!(trial.tally.unavailable > 0 && trial.back_after < SOON, "{:?}", trial.back_after);
}

/// What the network does between a server and Redis.
#[tokio::test(flavor = "multi_thread")]
async fn the_network_to_redis_breaks_in_every_way() {
    let redis = durable().start();
    let postgres = Postgres::database().await;
    let proxy = Proxy::start(redis.port()).await;
    let pod = async |url: &str| {
        let pod = Pod::builder().env("LOCKABLE_REDIS_URL", url).database(&postgres.url);
        pod.env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await
    };
    let pods = [pod(&proxy.url()).await, pod(&redis.url()).await];
    let clients = clients(&pods).await;
    let breaks: [(&str, Break); 6] = [
        ("black hole", Proxy::black_hole),
        ("answers lost", Proxy::drop_answers),
        ("half open", Proxy::half_open),
        ("refused", Proxy::refuse),
        ("slow", Proxy::slow),
        ("cut", |proxy| proxy.cut_after(1000)),
    ];
    for (name, how) in breaks {
        let trial = tried(name, &clients, Wanted::default(), async || {
            how(&proxy);
            tokio::time::sleep(Duration::from_secs(2)).await;
            proxy.pass();
        })
        .await;
        assert_eq!(trial.tally.recovering, 0, "{name}: nothing was lost: {:?}", trial.tally);
        assert!(trial.back_after < SOON, "{name}: {:?}", trial.back_after);
        eventually(async || clients[0].get("/v1/heartbeat/any").await.status == 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_whose_answer_was_lost_is_sent_again() {
    let cluster = cluster().await;
    let clients = clients(&cluster.pods).await;
    let (_, port) =
        cluster.pods[0].origin().rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    let proxy = Proxy::start(port.parse().unwrap()).await;
    let path = "/v1/acquire/lost?owner=ana&lease=60s";
    let through = clients[0].at(&format!("http://127.0.0.1:{}", proxy.port()));
    proxy.drop_answers();
    assert!(tokio::time::timeout(Duration::from_millis(500), through.try_get(path)).await.is_err());
    eventually(async || clients[1].get("/v1/locks/lost").await.json["held"] == true).await;
    let fence = clients[1].get("/v1/locks/lost").await.json["holder"]["fencing_token"].clone();
    proxy.pass();
    // The same server or another one: it is the same grant.
    for client in [&through, &clients[1]] {
        let again = client.get(path).await;
        assert_eq!((&again.json["response"], &again.json["fencing_token"]), (&true.into(), &fence), "{}", again.text);
    }
}

/// Redis grants, the server does not hear of it, and answers 503: what nobody knows
/// of is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_of_which_the_server_did_not_hear_is_taken_back() {
    let cluster = cluster().await;
    let proxy = Proxy::start(cluster.redis.port()).await;
    let deaf = Pod::builder().env("LOCKABLE_REDIS_URL", &proxy.url()).database(&cluster.postgres.url);
    let deaf = deaf.env("LOCKABLE_JOURNAL_ABOVE", "60s").start().await;
    let token = cluster.account("business").await.token;
    let (deaf, client) = (deaf.client(&token), cluster.pods[0].client(&token));
    assert_eq!(deaf.get("/v1/heartbeat/warm-up").await.status, 200);
    for (name, wait) in [("at-once", ""), ("waited-for", "&wait=1s")] {
        proxy.drop_answers();
        deaf.get(&format!("/v1/acquire/{name}?owner=deaf&lease=60s{wait}")).await.assert_problem(503, "unavailable");
        proxy.pass();
        let path = format!("/v1/acquire/{name}?owner=another&lease=1s");
        eventually(async || client.get(&path).await.json["response"] == true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_full_forgets_its_scripts_and_hangs_in_a_strangers_script() {
    let cluster = cluster().await;
    let clients = clients(&cluster.pods).await;
    let trial = tried("maxmemory", &clients, Wanted::default(), async || {
        cluster.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    })
    .await;
    assert!(trial.tally.unavailable > 0 && trial.tally.recovering == 0, "{:?}", trial.tally);

    let trial = tried("SCRIPT FLUSH", &clients, Wanted::default(), async || {
        for _ in 0..50 {
            cluster.redis.cli(&["SCRIPT", "FLUSH"]);
        }
    })
    .await;
    assert_eq!((trial.tally.unavailable, trial.tally.recovering), (0, 0), "{:?}", trial.tally);

    let trial = tried("SCRIPT KILL", &clients, Wanted::default(), async || {
        cluster.redis.cli(&["CONFIG", "SET", "busy-reply-threshold", "100"]);
        let port = cluster.redis.port().to_string();
        let mut stranger = tokio::process::Command::new("redis-cli");
        let mut stranger = stranger.args(["-p", &port, "EVAL", "while true do end", "0"]).spawn().unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        eventually(async || cluster.redis.cli(&["SCRIPT", "KILL"]).contains("OK")).await;
        stranger.wait().await.unwrap();
    })
    .await;
    assert_eq!(trial.tally.recovering, 0, "{:?}", trial.tally);
    assert!(trial.back_after < SOON, "{:?}", trial.back_after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_killed_with_a_thousand_that_wait() {
    let _crowd = crowd_turn().await;
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
    let trial =
        tried("killed with 1,000 waiters", &clients[1..], Wanted::default(), async || cluster.pods[0].kill()).await;
    assert_eq!((trial.tally.recovering, trial.tally.unavailable), (0, 0), "{:?}", trial.tally);
    let released = Instant::now();
    assert_eq!(clients[1].get("/v1/release/queue?owner=first").await.json["response"], true);
    let last = last.await.unwrap();
    assert_eq!(last.json["response"], true, "{}", last.text);
    println!("the first one alive had the lock {:?} after the release", released.elapsed());
    for waiter in waiting {
        assert!(waiter.await.unwrap().is_none(), "nobody else was granted it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_do_not_arrive() {
    let cluster = cluster().await;
    let clients = clients(&cluster.pods).await;
    let wanted = Wanted { wait: Duration::from_secs(5), ..Wanted::default() };
    let trial = tried("no messages", &clients, wanted, async || {
        cluster.redis.cli(&["ACL", "SETUSER", "default", "resetchannels"]);
        cluster.redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.redis.cli(&["ACL", "SETUSER", "default", "allchannels"]);
    })
    .await;
    assert_eq!((trial.tally.recovering, trial.tally.unavailable), (0, 0), "{:?}", trial.tally);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_away_and_redis_is_lost_meanwhile() {
    let mut redis = durable().start();
    let mut postgres = Postgres::own().await;
    let pod = Pod::builder().redis(&redis).database(&postgres.url).env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await;
    let clients = clients(std::slice::from_ref(&pod)).await;
    let trial = tried("postgres away", &clients, Wanted::default(), async || {
        postgres.stop();
        tokio::time::sleep(Duration::from_secs(3)).await;
    })
    .await;
    assert_eq!((trial.tally.recovering, trial.tally.unavailable), (0, 0), "nobody noticed: {:?}", trial.tally);
    let trial = tried("redis lost without postgres", &clients, Wanted::default(), async || {
        redis.restart_empty();
        let refused = async || clients[0].get("/v1/acquire/any?lease=1s").await.json["reason"] == "recovering";
        eventually(refused).await;
        // It cannot end while nobody knows what was written down.
        tokio::time::sleep(Duration::from_secs(7)).await;
        // Without either nobody even knows any more whose the token is.
        clients[0].get("/v1/acquire/any?lease=1s").await.assert_problem(503, "unavailable");
        postgres.start();
    })
    .await;
    assert!(trial.tally.recovering > 0, "{:?}", trial.tally);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_is_killed_and_started_again() {
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
        let trial = tried(name, &clients, Wanted::default(), async || {
            if recovers {
                pod.kill();
            } else {
                assert_eq!(pod.stop().await, Some(0));
            }
            pod = start().await;
        })
        .await;
        assert_eq!(trial.tally.recovering > 0, recovers, "{name}: {:?}", trial.tally);
    }
}
