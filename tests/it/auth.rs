//! Authentication and authorization, and how soon changes to them take effect.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use uuid::Uuid;

use crate::support::{Client, Cluster, Pod, eventually, postgres::Postgres, redis::RedisServer};

#[tokio::test]
async fn wrong_revoked_and_missing_credentials_return_the_same_401() {
    let pod = Pod::start().await;
    let account = pod.account("business").await;
    let made = pod.operator(&["token", "create", "--account", &account.email]).await;
    let revoked = made["token"].as_str().unwrap().to_owned();
    pod.operator(&["token", "revoke", made["id"].as_str().unwrap()]).await;

    let token = &account.token;
    let basic = |user_and_password: String| {
        use base64::{Engine, engine::general_purpose::STANDARD};
        format!("Basic {}", STANDARD.encode(user_and_password))
    };
    let wrong = [
        basic(format!("{}:", Uuid::new_v4())),
        basic(format!("{revoked}:")),
        basic(format!("{token}:password")),
        basic(token.clone()),
        basic(":".into()),
        basic("not-a-uuid:".into()),
        "Basic %%%".into(),
        "Basic".into(),
        format!("Bearer {token}:"),
        format!("Digest {token}"),
        String::new(),
    ];
    let anonymous = pod.client_without_token();
    let missing = anonymous.get("/v1/acquire/auth").await;
    missing.assert_problem(401, "unauthenticated");
    for header in &wrong {
        let answer = anonymous.request("GET", "/v1/acquire/auth", &[("Authorization", header)]).await;
        answer.assert_problem(401, "unauthenticated");
        // The responses differ only in their request ids.
        assert_eq!(answer.json["detail"], missing.json["detail"], "{header}");
        assert_eq!(answer.text.len(), missing.text.len(), "{header}");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"lockable\""), "{header}");
    }
    for header in [basic(format!("{token}:")), basic(format!("{token}:")).replace("Basic", "bAsIc")] {
        let answer = anonymous.request("GET", "/v1/heartbeat/auth", &[("Authorization", &header)]).await;
        assert_eq!(answer.json["reason"], "not_held", "{header}: no rejected request acquired");
    }
}

#[tokio::test]
async fn acquire_needs_the_scope_lock() {
    let pod = Pod::start().await;
    let account = pod.account("business").await;
    let made = pod.operator(&["token", "create", "--account", &account.email, "--scope", "manage"]).await;
    let client = pod.client(made["token"].as_str().unwrap());
    client.get("/v1/acquire/scope").await.assert_problem(403, "scope-missing");
}

/// Polls every server until the response is as expected, and fails after the promised second.
async fn assert_within_a_second(
    clients: &[Client],
    path: &str,
    is_expected: impl Fn(&crate::support::Response) -> bool,
) {
    let changed = Instant::now();
    for client in clients {
        eventually(async || is_expected(&client.get(path).await)).await;
    }
    assert!(changed.elapsed() < Duration::from_secs(1), "{path} took {:?}", changed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_take_effect_on_all_servers_within_a_second() {
    let cluster = Cluster::start(3).await;
    let account = cluster.account("hobbyist").await;
    let email = &account.email;
    let clients: Vec<_> = cluster.pods.iter().map(|pod| pod.client(&account.token)).collect();
    for client in &clients {
        assert_eq!(client.get("/v1/heartbeat/change").await.json["reason"], "not_held");
    }

    cluster.operator(&["account", "set-plan", email, "business"]).await;
    assert_within_a_second(&clients, "/v1/heartbeat/change?lease=2m", |answer| answer.status == 200).await;

    cluster.operator(&["plan", "set", "business", "--lease-max", "1m"]).await;
    assert_within_a_second(&clients, "/v1/heartbeat/change?lease=2m", |answer| answer.status == 403).await;

    cluster.operator(&["account", "set-lease", email, "7s"]).await;
    for client in &clients {
        let set = Instant::now();
        eventually(async || {
            client.get("/v1/release/change").await;
            client.get("/v1/acquire/change").await.json["lease_ms"] == 7000
        })
        .await;
        assert!(set.elapsed() < Duration::from_secs(1));
    }

    cluster.operator(&["account", "suspend", email]).await;
    assert_within_a_second(&clients, "/v1/heartbeat/change", |answer| {
        answer.status == 403 && answer.json["type"] == "/problems/account-suspended"
    })
    .await;
    cluster.operator(&["account", "resume", email]).await;
    assert_within_a_second(&clients, "/v1/heartbeat/change", |answer| answer.status == 200).await;

    let tokens = cluster.operator(&["token", "list", "--account", email]).await;
    cluster.operator(&["token", "revoke", tokens[0]["id"].as_str().unwrap()]).await;
    assert_within_a_second(&clients, "/v1/heartbeat/change", |answer| answer.status == 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sql_cached_tokens_work_and_others_return_503() {
    let redis = RedisServer::start();
    let mut postgres = Postgres::own().await;
    let first = Pod::builder().redis(&redis).database(&postgres.url).start().await;
    let second = Pod::builder().redis(&redis).database(&postgres.url).start().await;
    let [known, unknown] = [first.account("business").await.token, first.account("business").await.token];
    for pod in [&first, &second] {
        pod.wait_for_changes().await;
    }
    assert_eq!(first.client(&known).get("/v1/acquire/sql").await.json["response"], true);

    postgres.stop();
    for pod in [&first, &second] {
        let answer = pod.client(&known).get("/v1/heartbeat/sql").await;
        assert_eq!(answer.json["response"], true, "also on a server that has not seen the token: {}", answer.text);
        let answer = pod.client(&unknown).get("/v1/heartbeat/sql").await;
        answer.assert_problem(503, "unavailable");
        assert!(answer.header("retry-after").is_some());
    }
    let keys = redis.cli(&["--raw", "KEYS", "*:token:*"]);
    let key = keys.lines().next().unwrap();
    assert!(!key.contains(&known), "no key contains a token");
    let rest_s: u64 = redis.cli(&["TTL", key]).trim().parse().unwrap();
    assert!(rest_s > 3600, "cached tokens expire after {rest_s} s");

    postgres.start();
    eventually(async || first.client(&unknown).get("/v1/heartbeat/sql").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_lookups_of_one_token_share_a_query() {
    let cluster = Cluster::start(1).await;
    let client = cluster.pods[0].client(&cluster.account("business").await.token);
    let before = cluster.postgres.account_queries();
    let answers = futures_util::future::join_all((0..100).map(|_| client.get("/v1/heartbeat/herd"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    // One query for the token and one for its namespaces, and both again if the server invalidates
    // the new account in between.
    let asked = cluster.postgres.account_queries() - before;
    assert!((2..=4).contains(&asked), "{asked} queries");
}

#[tokio::test]
async fn address_with_many_auth_failures_is_rate_limited_except_valid_tokens() {
    let pod = Pod::builder()
        .env("LOCKABLE_AUTH_FAILURES_PER_MINUTE", "5")
        .env("LOCKABLE_TRUSTED_PROXIES", "127.0.0.0/8")
        .start()
        .await;
    let client = pod.client(&pod.account("business").await.token);
    let from = async |client: &Client, address: &str| {
        client.request("GET", "/v1/heartbeat/fail", &[("X-Forwarded-For", address)]).await
    };
    pod.wait_for_changes().await;
    assert_eq!(from(&client, "192.0.2.1").await.json["reason"], "not_held");
    for _ in 0..5 {
        let guesser = pod.client(&Uuid::new_v4().to_string());
        from(&guesser, "192.0.2.1").await.assert_problem(401, "unauthenticated");
    }
    let guesser = pod.client(&Uuid::new_v4().to_string());
    eventually(async || from(&guesser, "192.0.2.1").await.status == 429).await;
    let refused = from(&guesser, "192.0.2.1").await;
    refused.assert_problem(429, "too-many-failures");
    assert!(refused.header("retry-after").is_some());
    // The client wrote the addresses on the left; they have no effect.
    from(&guesser, "203.0.113.9, 192.0.2.1").await.assert_problem(429, "too-many-failures");

    assert_eq!(from(&client, "192.0.2.1").await.status, 200, "a valid token");
    from(&guesser, "192.0.2.2").await.assert_problem(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_requests_count_as_auth_failures() {
    let (redis, postgres) = (RedisServer::start(), Postgres::database().await);
    // At most four lookups run at once; a request that is aborted before its lookup costs nothing.
    let builder = Pod::builder().redis(&redis).database(&postgres.url).env("LOCKABLE_AUTH_FAILURES_PER_MINUTE", "3");
    let pod = builder.start().await;
    // The database answers later than these clients wait.
    let postgres = Arc::new(postgres);
    let busy = tokio::task::spawn_blocking({
        let postgres = postgres.clone();
        move || postgres.query("BEGIN; LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(1); COMMIT")
    });
    let is_locked = "SELECT 'yes' FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted LIMIT 1";
    eventually(async || postgres.query(is_locked).unwrap().contains("yes")).await;
    for _ in 0..10 {
        let guesser = pod.client(&Uuid::new_v4().to_string());
        let asking = tokio::spawn(async move { guesser.try_get("/v1/heartbeat/fail").await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        asking.abort();
    }
    busy.await.unwrap().unwrap();
    let guesser = pod.client(&Uuid::new_v4().to_string());
    assert_eq!(guesser.get("/v1/heartbeat/fail").await.status, 429);
}

#[tokio::test]
async fn accounts_cannot_change_or_read_locks_of_each_other() {
    let pod = Pod::start().await;
    let [ana, bob] = [pod.account("business").await, pod.account("business").await];
    pod.operator(&["namespace", "create", "--account", &ana.email, "secret"]).await;
    let [ana, bob] = [&ana, &bob].map(|account| pod.client(&account.token));
    eventually(async || ana.get("/v1/acquire/mine?namespace=secret&owner=job").await.status == 200).await;

    let form = [("owner", "job"), ("note", "for my eyes"), ("lease", "1h")];
    let granted = ana.post_form("/v1/acquire/shared", &form).await;
    let fence = granted.json["fencing_token"].as_u64().unwrap();

    let refused = bob.get("/v1/acquire/shared?owner=job").await;
    assert_eq!(refused.json["reason"], "held");
    assert!(refused.json.get("holder").is_none() && !refused.text.contains("eyes"), "{}", refused.text);
    for operation in ["heartbeat", "release"] {
        for query in ["", "?owner=job", &format!("?owner=job&fencing_token={fence}")] {
            let answer = bob.get(&format!("/v1/{operation}/shared{query}")).await;
            assert_eq!(
                answer.json,
                json!({"response": false, "name": "shared", "namespace": "public", "reason": "held_by_another"})
            );
        }
    }
    for operation in ["acquire", "heartbeat", "release"] {
        let guessed = bob.get(&format!("/v1/{operation}/mine?namespace=secret&owner=job")).await;
        guessed.assert_problem(403, "namespace-denied");
        let absent = bob.get(&format!("/v1/{operation}/mine?namespace=absent&owner=job")).await;
        assert_eq!(guessed.json["detail"], absent.json["detail"].as_str().unwrap().replace("absent", "secret"));
    }
    assert_eq!(ana.get("/v1/heartbeat/shared?owner=job").await.json["fencing_token"], fence);
    assert_eq!(ana.get("/v1/release/mine?namespace=secret&owner=job").await.json["response"], true);
}
