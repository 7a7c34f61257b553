//! Read access to locks and to the account, and breaking locks.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{Client, Cluster, Pod, eventually, postgres::Postgres, redis::RedisServer};

async fn token(pod: &Pod, email: &str, scope: &str, label: &str) -> Client {
    let made = pod.operator(&["token", "create", "--account", email, "--label", label, "--scope", scope]).await;
    pod.client(made["token"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_view_shows_the_holder_only_to_its_account() {
    let pod = Pod::start().await;
    let [ours, theirs] = [pod.account("business").await, pod.account("business").await];
    let ci = token(&pod, &ours.email, "lock", "ci").await;
    let [ours, theirs] = [&ours, &theirs].map(|account| pod.client(&account.token));

    let free = ours.get("/v1/locks/deploy/prod").await;
    assert_eq!(
        (free.status, free.json.clone()),
        (200, json!({ "name": "deploy/prod", "namespace": "public", "held": false, "waiting": 0 })),
        "{}",
        free.text
    );
    let granted = ci.get("/v1/acquire/deploy/prod?owner=job-1&note=build%201").await.json;
    let held = ours.get("/v1/locks/deploy%2Fprod").await.json;
    assert_eq!(held["held"], true);
    let holder = &held["holder"];
    assert_eq!(holder["owner"], "job-1");
    assert_eq!(holder["note"], "build 1");
    assert_eq!(holder["token_label"], "ci");
    assert_eq!(holder["fencing_token"], granted["fencing_token"]);
    assert_eq!(holder["expires_at"], granted["expires_at"]);
    assert!(holder["acquired_at"].as_str().unwrap() < holder["expires_at"].as_str().unwrap());

    let listed = ours.get("/v1/locks").await.json["locks"][0]["holder"].clone();
    assert_eq!(&listed, holder, "the list contains the same holder");

    let to_others = theirs.get("/v1/locks/deploy/prod").await.json;
    assert_eq!((&to_others["held"], to_others.get("holder")), (&true.into(), None));
    // A GET or HEAD of a lock does not acquire it.
    assert_eq!(ours.request("HEAD", "/v1/locks/other", &[]).await.status, 200);
    assert_eq!(ours.get("/v1/locks/other").await.json["held"], false);
    ours.get("/v1/locks/other?lease=5s").await.assert_problem(400, "malformed-parameter");
    ours.get("/v1/locks/").await.assert_problem(400, "malformed-name");
    ours.get("/v1/locks/x?namespace=theirs").await.assert_problem(403, "namespace-denied");
    pod.client_without_token().get("/v1/locks/x").await.assert_problem(401, "unauthenticated");
}

/// Returns the names on all pages of the list.
async fn listed(client: &Client, params: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("/v1/locks?{params}{cursor}")).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let locks = page.json["locks"].as_array().unwrap();
        names.extend(locks.iter().map(|lock| lock["name"].as_str().unwrap().to_owned()));
        match &page.json["next_cursor"] {
            Value::Null => return names,
            next => cursor = format!("&cursor={}", next.as_str().unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_contains_held_locks_and_removes_stale_entries() {
    let cluster = Cluster::start(1).await;
    let embedded = Pod::start().await;
    for (pod, redis) in [(&cluster.pods[0], Some(&cluster.redis)), (&embedded, None)] {
        let [ours, theirs] = [pod.account("business").await, pod.account("business").await];
        pod.operator(&["namespace", "create", "--account", &ours.email, "builds"]).await;
        let [ours, theirs] = [&ours, &theirs].map(|account| pod.client(&account.token));
        assert_eq!(listed(&ours, "").await, Vec::<String>::new());

        let mut expected = BTreeSet::new();
        for number in 0..25 {
            let name = format!("{}/{number}", if number % 5 == 0 { "rare" } else { "often" });
            let namespace = if number % 2 == 0 { "public" } else { "builds" };
            let granted =
                ours.get(&format!("/v1/acquire/{name}?namespace={namespace}&lease={}s", 60 + number % 3)).await;
            assert_eq!(granted.json["response"], true, "{}", granted.text);
            expected.insert(name);
        }
        assert_eq!(theirs.get("/v1/acquire/not-ours").await.json["response"], true);
        let wanted = |filter: fn(usize) -> bool| -> BTreeSet<String> {
            let is_wanted = |name: &&String| filter(name.rsplit('/').next().unwrap().parse().unwrap());
            expected.iter().filter(is_wanted).cloned().collect()
        };
        let found = |names: Vec<String>| -> BTreeSet<String> {
            let set: BTreeSet<_> = names.iter().cloned().collect();
            assert_eq!(set.len(), names.len(), "{names:?}");
            set
        };
        for limit in ["", "&limit=1", "&limit=7", "&limit=1000"] {
            assert_eq!(found(listed(&ours, limit).await), wanted(|_| true), "{limit}");
            assert_eq!(found(listed(&ours, &format!("prefix=rare/{limit}")).await), wanted(|n| n % 5 == 0));
            assert_eq!(found(listed(&ours, &format!("namespace=builds{limit}")).await), wanted(|n| n % 2 == 1));
            let both = format!("namespace=public&prefix=often/{limit}");
            assert_eq!(found(listed(&ours, &both).await), wanted(|n| n % 2 == 0 && n % 5 != 0));
        }
        let first = ours.get("/v1/locks?prefix=rare/0").await.json;
        assert_eq!(first["locks"][0]["namespace"], "public");
        assert_eq!(first["locks"][0]["holder"]["token_label"], "first");

        // Released and expired locks leave the list; reading the list removes stale index entries.
        assert_eq!(ours.get("/v1/release/rare/0").await.json["response"], true);
        assert_eq!(ours.get("/v1/heartbeat/rare/10?lease=1s").await.json["response"], true);
        eventually(async || listed(&ours, "prefix=rare/").await.len() == 3).await;
        if let Some(redis) = redis {
            let index = redis.cli(&["KEYS", "*:held:*"]);
            let index = index.lines().find(|key| redis.cli(&["ZCARD", key]).trim() == "23").unwrap().to_owned();
            redis.cli(&["ZADD", &index, "9999999999999", "-/never-held"]);
            assert_eq!(redis.cli(&["ZCARD", &index]).trim(), "24");
            assert_eq!(listed(&ours, "").await.len(), 23);
            assert_eq!(redis.cli(&["ZCARD", &index]).trim(), "23");
        }
        for (params, kind) in [("limit=0", 400), ("limit=1001", 400), ("cursor=x", 400), ("namespace=x", 403)] {
            assert_eq!(ours.get(&format!("/v1/locks?{params}")).await.status, kind, "{params}");
        }
        let long = ours.get(&format!("/v1/locks?prefix={}", "x".repeat(201))).await;
        long.assert_problem(400, "malformed-parameter");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_lock_stays_listed_and_counted() {
    let cluster = Cluster::start(1).await;
    let embedded = Pod::start().await;
    for pod in [&cluster.pods[0], &embedded] {
        pod.operator(&["plan", "set", "business", "--locks", "1"]).await;
        let [ours, theirs] = [pod.account("business").await, pod.account("business").await];
        let [ours, theirs] = [&ours, &theirs].map(|account| pod.client(&account.token));
        assert_eq!(ours.get("/v1/acquire/renewed?lease=3s").await.json["response"], true);
        assert_eq!(theirs.get("/v1/acquire/later?lease=3s").await.json["response"], true);
        assert_eq!(ours.get("/v1/heartbeat/renewed?lease=1h").await.json["response"], true);
        eventually(async || theirs.get("/v1/locks/later").await.json["held"] == false).await;
        ours.get("/v1/acquire/second").await.assert_problem(429, "too-many-locks");
        assert_eq!(listed(&ours, "").await, ["renewed"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn account_view_contains_plan_and_usage() {
    let pod = Pod::start().await;
    let account = pod.account("business").await;
    pod.operator(&["namespace", "create", "--account", &account.email, "builds"]).await;
    let client = pod.client(&account.token);
    let manager = token(&pod, &account.email, "manage", "boss").await;
    for name in ["one", "two?lease=1s"] {
        assert_eq!(client.get(&format!("/v1/acquire/{name}")).await.json["response"], true);
    }
    // Servers apply a change within a second.
    eventually(async || client.get("/v1/account").await.json["namespaces"] == json!(["public", "builds"])).await;
    let shown = client.get("/v1/account").await.json;
    assert_eq!(shown["plan"]["name"], "business");
    assert_eq!(shown["plan"]["lease_min_ms"], 1000);
    assert_eq!(shown["plan"]["lease_max_ms"], 24 * 3600 * 1000);
    assert_eq!(shown["plan"]["rate_per_second"], 1000);
    assert_eq!(shown["plan"]["burst"], 2000);
    assert_eq!(shown["plan"]["locks_max"], 100_000);
    assert_eq!(shown["plan"]["waiting_max"], 10_000);
    assert_eq!(shown["lease_ms"], 60_000);
    assert_eq!(shown["default_namespace"], "public");
    assert_eq!(shown["token"]["label"], "first");
    assert!(shown["locks_held"].as_u64().unwrap() >= 1, "{shown}");
    eventually(async || client.get("/v1/account").await.json["locks_held"] == 1).await;
    assert_eq!(manager.get("/v1/account").await.json["token"], json!({ "label": "boss", "scopes": ["manage"] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn break_ends_the_grant_and_hands_over_to_the_next_waiter() {
    let cluster = Cluster::start(1).await;
    let embedded = Pod::start().await;
    for pod in [&cluster.pods[0], &embedded] {
        let [ours, theirs] = [pod.account("business").await, pod.account("business").await];
        let worker = token(pod, &ours.email, "lock", "ci").await;
        let boss = token(pod, &ours.email, "manage", "on-call").await;
        let theirs = pod.client(&theirs.token);

        let none = boss.request("DELETE", "/v1/locks/stuck", &[]).await;
        assert_eq!((none.status, &none.json["reason"]), (200, &"not_held".into()), "{}", none.text);
        let granted = worker.get("/v1/acquire/stuck?owner=dead-job&note=build%207&lease=1h").await.json;
        worker.request("DELETE", "/v1/locks/stuck", &[]).await.assert_problem(403, "scope-missing");
        boss.get("/v1/acquire/stuck").await.assert_problem(403, "scope-missing");
        let foreign = theirs.request("DELETE", "/v1/locks/stuck", &[]).await;
        assert_eq!(foreign.status, 200, "{}", foreign.text);
        assert_eq!(foreign.json["reason"], "held_by_another");
        assert!(foreign.json.get("holder").is_none());

        let waiter = {
            let worker = worker.clone();
            tokio::spawn(async move { worker.get("/v1/acquire/stuck?owner=next-job&wait=30s").await })
        };
        eventually(async || worker.get("/v1/locks/stuck").await.json["waiting"] == 1).await;
        let broken = boss.request("DELETE", "/v1/locks/stuck", &[]).await;
        assert_eq!((broken.status, &broken.json["response"]), (200, &true.into()), "{}", broken.text);
        assert_eq!(broken.json["holder"]["owner"], "dead-job");
        assert_eq!(broken.json["holder"]["fencing_token"], granted["fencing_token"]);
        let next = waiter.await.unwrap();
        assert_eq!(next.json["response"], true, "{}", next.text);
        assert!(next.json["fencing_token"].as_u64() > granted["fencing_token"].as_u64());
        let former = worker.get("/v1/heartbeat/stuck?owner=dead-job").await.json;
        assert_eq!((&former["response"], &former["reason"]), (&false.into(), &"held_by_another".into()));

        boss.request("DELETE", "/v1/locks/stuck", &[]).await;
        let former = worker.get("/v1/heartbeat/stuck?owner=next-job").await.json;
        assert_eq!((&former["response"], &former["reason"]), (&false.into(), &"not_held".into()));
        assert_eq!(worker.get("/v1/account").await.json["locks_held"], 0);
    }

    // The audit row contains the actor, the time and the holder.
    let rows = cluster
        .postgres
        .query("SELECT actor || ' ' || detail FROM audit WHERE action = 'lock.break' ORDER BY at")
        .unwrap();
    let rows: Vec<_> = rows.lines().collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    for text in ["token:", "\"by\":\"on-call\"", "\"name\":\"stuck\"", "\"owner\":\"dead-job\"", "\"note\":\"build 7\""]
    {
        assert!(rows[0].contains(text), "{text} is not in {}", rows[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn break_is_audited_even_if_the_client_disconnects() {
    let mut cluster = Cluster::start(1).await;
    let account = cluster.account("business").await;
    let pod = &mut cluster.pods[0];
    let client = pod.client(&account.token);
    for round in 0..30 {
        let name = format!("race-{round}");
        assert_eq!(client.get(&format!("/v1/acquire/{name}")).await.json["response"], true);
        let mut stream = TcpStream::connect(pod.authority("127.0.0.1")).await.unwrap();
        let authorization = client.authorization();
        let request =
            format!("DELETE /v1/locks/{name} HTTP/1.1\r\nHost: test\r\nAuthorization: {authorization}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_micros(400 * round)).await;
        drop(stream);
    }
    // The server finishes the requests that it began before it exits.
    assert_eq!(pod.stop().await, Some(0));
    let again = Pod::builder().redis(&cluster.redis).database(&cluster.postgres.url).start().await;
    let client = again.client(&account.token);
    let mut broken = 0;
    for round in 0..30 {
        let is_broken = client.get(&format!("/v1/locks/race-{round}")).await.json["held"] == false;
        let query =
            format!("SELECT count(*) FROM audit WHERE action = 'lock.break' AND detail LIKE '%\"race-{round}\"%'");
        let is_recorded = cluster.postgres.query(&query).unwrap().trim() == "1";
        assert_eq!(is_broken, is_recorded, "race-{round}");
        broken += u32::from(is_broken);
    }
    assert!(broken > 5, "only {broken} of 30 locks were broken, too few for a meaningful test");
}

#[tokio::test(flavor = "multi_thread")]
async fn break_fails_if_the_audit_row_cannot_be_written() {
    let redis = RedisServer::start();
    let mut postgres = Postgres::own().await;
    let pod = Pod::builder().redis(&redis).database(&postgres.url).start().await;
    let client = pod.client(&pod.account("business").await.token);
    assert_eq!(client.get("/v1/acquire/kept").await.json["response"], true);
    postgres.stop();
    client.request("DELETE", "/v1/locks/kept", &[]).await.assert_problem(503, "unavailable");
    assert_eq!(client.get("/v1/heartbeat/kept").await.json["response"], true);
}
