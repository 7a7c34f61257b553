//! The three documented lock routes over HTTP.

use serde_json::{Value, json};

use crate::support::{Account, Client, Cluster, Pod, Response, eventually};

async fn business() -> (Pod, Client) {
    let pod = Pod::start().await;
    let client = pod.client(&pod.account("business").await.token);
    (pod, client)
}

#[tokio::test]
async fn lock_is_granted_to_one_caller_until_released() {
    let (_pod, client) = business().await;
    let granted = client.get("/v1/acquire/my-lock-name").await;
    assert_eq!(granted.status, 200);
    assert_eq!(granted.json["response"], true);
    assert_eq!(granted.json["name"], "my-lock-name");
    assert_eq!(granted.json["namespace"], "public");
    assert_eq!(granted.json["owner"], Value::Null);
    assert_eq!(granted.json["lease_ms"], 60_000);
    let fence = granted.json["fencing_token"].as_u64().unwrap();
    assert!(fence < 1 << 53);
    assert!(is_rfc_3339_with_ms(granted.json["expires_at"].as_str().unwrap()), "{}", granted.json);
    assert!(granted.text.starts_with("{\"response\":true,"), "{}", granted.text);

    let refused = client.get("/v1/acquire/my-lock-name").await;
    assert_eq!(
        (refused.status, &refused.json["response"], &refused.json["reason"]),
        (200, &json!(false), &json!("held"))
    );
    let rest_ms = refused.json["retry_after_ms"].as_u64().unwrap();
    assert!((50_000..=60_000).contains(&rest_ms), "{rest_ms}");

    let renewed = client.get("/v1/heartbeat/my-lock-name").await;
    assert_eq!((&renewed.json["response"], &renewed.json["fencing_token"]), (&json!(true), &json!(fence)));

    let released = client.get("/v1/release/my-lock-name").await;
    assert_eq!(released.json, json!({"response": true, "name": "my-lock-name", "namespace": "public"}));
    let again = client.get("/v1/release/my-lock-name").await;
    assert_eq!((&again.json["response"], &again.json["reason"]), (&json!(false), &json!("not_held")));
    assert_eq!(client.get("/v1/heartbeat/my-lock-name").await.json["reason"], "not_held");

    let next = client.get("/v1/acquire/my-lock-name").await;
    assert!(next.json["fencing_token"].as_u64().unwrap() > fence);
}

#[tokio::test]
async fn expired_lease_frees_the_lock() {
    let (_pod, client) = business().await;
    assert_eq!(client.get("/v1/acquire/lapse?lease=1s").await.json["lease_ms"], 1000);
    assert_eq!(client.get("/v1/acquire/lapse").await.json["response"], false);
    eventually(async || client.get("/v1/acquire/lapse").await.json["response"] == true).await;
}

#[tokio::test]
async fn owner_may_acquire_again_and_others_are_refused() {
    let (_pod, client) = business().await;
    let first = client.post_form("/v1/acquire/deploy", &[("owner", "ci-1"), ("note", "build 1234, by ana")]).await;
    let again = client.post_json("/v1/acquire/deploy", json!({"owner": "ci-1", "lease": 90})).await;
    assert_eq!((&again.json["response"], &again.json["fencing_token"]), (&json!(true), &first.json["fencing_token"]));
    assert_eq!(again.json["lease_ms"], 90_000);

    let other = client.get("/v1/acquire/deploy?owner=ci-2").await;
    assert_eq!(other.json["response"], false);
    assert_eq!(other.json["holder"]["owner"], "ci-1");
    assert_eq!(other.json["holder"]["note"], "build 1234, by ana");
    for time in ["acquired_at", "expires_at"] {
        assert!(is_rfc_3339_with_ms(other.json["holder"][time].as_str().unwrap()), "{}", other.json);
    }
    for path in [
        "/v1/heartbeat/deploy?owner=ci-2",
        "/v1/heartbeat/deploy",
        "/v1/release/deploy?owner=ci-2",
        "/v1/release/deploy",
    ] {
        let answer = client.get(path).await;
        assert_eq!(
            (&answer.json["response"], &answer.json["reason"]),
            (&json!(false), &json!("held_by_another")),
            "{path}"
        );
    }
    assert_eq!(client.get("/v1/release/deploy?owner=ci-1").await.json["response"], true);
}

#[tokio::test]
async fn wrong_fencing_token_changes_nothing() {
    let (_pod, client) = business().await;
    let old = client.get("/v1/acquire/fenced").await.json["fencing_token"].as_u64().unwrap();
    client.get("/v1/release/fenced").await;
    let new = client.get("/v1/acquire/fenced").await.json["fencing_token"].as_u64().unwrap();
    for path in ["/v1/heartbeat/fenced", "/v1/release/fenced"] {
        assert_eq!(client.get(&format!("{path}?fencing_token={old}")).await.json["reason"], "held_by_another");
    }
    let renewed = client.post_json("/v1/heartbeat/fenced", json!({ "fencing_token": new })).await;
    assert_eq!(renewed.json["fencing_token"], new);
    assert_eq!(client.get(&format!("/v1/release/fenced?fencing_token={new}")).await.json["response"], true);
}

#[tokio::test]
async fn strict_returns_423_for_a_refusal() {
    let (_pod, client) = business().await;
    for path in ["/v1/heartbeat/strict?strict=true", "/v1/release/strict?strict=true"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, &answer.json["reason"]), (423, &json!("not_held")), "{path}");
    }
    let granted = client.get("/v1/acquire/strict?strict=true").await;
    assert_eq!((granted.status, &granted.json["response"]), (200, &json!(true)));
    let refused = client.post_json("/v1/acquire/strict", json!({"strict": true})).await;
    assert_eq!((refused.status, &refused.json["reason"]), (423, &json!("held")));
    assert_eq!(client.get("/v1/acquire/strict?strict=false").await.status, 200);
}

#[tokio::test]
async fn lock_name_is_the_path_rest_decoded_once() {
    let (_pod, client) = business().await;
    let held = |answer: &Response| answer.json["reason"] == "held";
    assert_eq!(client.get("/v1/acquire/team/app").await.json["name"], "team/app");
    assert!(held(&client.get("/v1/acquire/team%2Fapp").await), "both spellings are the same name");
    assert_eq!(client.get("/v1/acquire/team%252Fapp").await.json["name"], "team%2Fapp");
    assert_eq!(client.get("/v1/acquire/Team/app").await.json["response"], true, "names are compared byte for byte");
    assert_eq!(client.get("/v1/acquire/caf%C3%A9%20%F0%9F%94%92").await.json["name"], "café 🔒");
    assert_eq!(client.get(&format!("/v1/acquire/{}", "x".repeat(200))).await.json["response"], true);

    let rules = [
        ("", "empty"),
        ("x".repeat(201).leak(), "200"),
        ("a%00b", "control character"),
        ("a%0Ab", "control character"),
        ("a%E2%80%AEb", "reorders text"),
        ("%20a", "white space"),
        ("a%E3%80%80", "white space"),
        ("a//b", "empty segment"),
        ("a/", "empty segment"),
        ("a/%2e%2e/b", "\"..\""),
        ("%2E", "\".\""),
        ("%ff", "UTF-8"),
        ("100%", "%25"),
    ];
    for operation in ["acquire", "heartbeat", "release"] {
        for (name, rule) in &rules {
            let answer = client.get_raw(&format!("/v1/{operation}/{name}")).await;
            answer.assert_problem(400, "malformed-name");
            assert!(answer.json["detail"].as_str().unwrap().contains(rule), "{name:?}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn unknown_malformed_or_repeated_parameters_are_rejected_by_name() {
    let (_pod, client) = business().await;
    let cases = [
        ("acquire", "lese=5m", "lese"),
        ("acquire", "lease=5x", "lease"),
        ("acquire", "lease=", "lease"),
        ("acquire", "lease=1m&lease=1m", "lease"),
        ("acquire", "owner=", "owner"),
        ("acquire", "owner=a%20b", "owner"),
        ("acquire", "owner=a&fencing_token=1", "fencing_token"),
        ("acquire", "note=a%0Ab", "note"),
        ("acquire", "strict=yes", "strict"),
        ("acquire", "wait=soon", "wait"),
        ("heartbeat", "note=x", "note"),
        ("heartbeat", "fencing_token=1.5", "fencing_token"),
        ("heartbeat", "fencing_token=9007199254740992", "fencing_token"),
        ("release", "lease=1m", "lease"),
    ];
    for (operation, query, named) in cases {
        let answer = client.get(&format!("/v1/{operation}/params?{query}")).await;
        answer.assert_problem(400, "malformed-parameter");
        assert!(answer.json["detail"].as_str().unwrap().contains(named), "{query}: {}", answer.text);
    }
    for (parameter, length) in [("owner", 129), ("note", 501)] {
        let path = format!("/v1/acquire/params?{parameter}={}", "x".repeat(length));
        client.get(&path).await.assert_problem(400, "malformed-parameter");
        let path = format!("/v1/acquire/{parameter}?{parameter}={}", "x".repeat(length - 1));
        assert_eq!(client.get(&path).await.status, 200, "{parameter} at its limit");
    }
    client.get("/v1/acquire/params?owner=%f").await.assert_problem(400, "malformed-parameter");
    let many: String = (0..17).map(|number| format!("x{number}=1&")).collect();
    let many = client.get(&format!("/v1/acquire/params?{many}")).await;
    many.assert_problem(400, "malformed-parameter");
    assert!(many.json["detail"].as_str().unwrap().contains("16"), "{}", many.text);
    assert_eq!(client.get("/v1/acquire/params").await.json["response"], true, "no rejected request acquired");
}

#[tokio::test]
async fn body_is_a_form_or_a_json_object() {
    let (_pod, client) = business().await;
    let post = async |content_type: &str, body: &str| client.post_body("/v1/acquire/body", content_type, body).await;
    post("application/json", "{").await.assert_problem(400, "malformed-body");
    post("application/json", "[]").await.assert_problem(400, "malformed-body");
    post("application/json", r#"{"owner": ["a"]}"#).await.assert_problem(400, "malformed-parameter");
    post("application/json", r#"{"owner": "a", "owner": "b"}"#).await.assert_problem(400, "malformed-parameter");
    post("application/json", r#"{"lese": 5}"#).await.assert_problem(400, "malformed-parameter");
    post("application/x-www-form-urlencoded", "owner=%zz").await.assert_problem(400, "malformed-body");
    post("text/plain", "owner=a").await.assert_problem(415, "unsupported-media-type");
    let note = format!("note={}", "x".repeat(20_000));
    post("application/x-www-form-urlencoded", &note).await.assert_problem(413, "body-too-large");
    client
        .post_body("/v1/acquire/body?owner=a", "application/json", r#"{"owner": "b"}"#)
        .await
        .assert_problem(400, "malformed-parameter");

    let granted = post("application/json; charset=utf-8", r#"{"owner": "a", "lease": "2m", "note": null}"#).await;
    assert_eq!((&granted.json["owner"], &granted.json["lease_ms"]), (&json!("a"), &json!(120_000)));
    let again = client.post_body("/v1/acquire/body?owner=a", "application/json", "").await;
    assert_eq!(again.json["response"], true, "a POST accepts parameters in the query");
}

#[tokio::test]
async fn only_get_and_post_without_prefetch_change_a_lock() {
    let (_pod, client) = business().await;
    for method in ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "LOCK"] {
        for operation in ["acquire", "heartbeat", "release"] {
            let answer = client.request(method, &format!("/v1/{operation}/method"), &[]).await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, POST")), "{method} {operation}");
        }
    }
    for field in [("Sec-Purpose", "prefetch"), ("Sec-Purpose", "prefetch;prerender"), ("Purpose", "prefetch")] {
        client.request("GET", "/v1/acquire/method", &[field]).await.assert_problem(403, "prefetch-refused");
    }
    let granted = client.get("/v1/acquire/method").await;
    assert_eq!(granted.json["response"], true, "no rejected request acquired");
    client.get("/nothing").await.assert_problem(404, "not-found");
    let answer = client.request("POST", "/problems/not-found", &[]).await;
    answer.assert_problem(405, "method-not-allowed");
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
}

#[tokio::test]
async fn every_response_forbids_caching_and_has_rate_limit_headers() {
    let (_pod, client) = business().await;
    for path in ["/v1/acquire/a", "/v1/acquire/a?x=1", "/v1/acquire/", "/v1/heartbeat/a", "/v1/release/a"] {
        let answer = client.get(path).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"account\";q=2000;w=2"), "{path}");
        assert!(answer.header("ratelimit").is_some_and(|state| state.starts_with("\"account\";r=")), "{path}");
    }
    for kind in ["malformed-name", "unavailable", "rate-limited"] {
        let page = client.get(&format!("/problems/{kind}")).await;
        assert_eq!(page.status, 200, "the type of a problem is the URL of its page");
    }
}

#[tokio::test]
async fn plan_limits_leases() {
    let pod = Pod::start().await;
    let hobbyist = pod.client(&pod.account("hobbyist").await.token);
    assert_eq!(hobbyist.get("/v1/acquire/lease").await.json["lease_ms"], 60_000);
    assert_eq!(hobbyist.get("/v1/heartbeat/lease?lease=60s").await.json["response"], true);
    for (operation, lease) in [("acquire", "59s"), ("heartbeat", "61s"), ("acquire", "2h")] {
        let answer = hobbyist.get(&format!("/v1/{operation}/lease?lease={lease}")).await;
        answer.assert_problem(403, "lease-out-of-range");
        assert!(answer.json["detail"].as_str().unwrap().contains("60s"), "{}", answer.text);
    }

    let Account { token, email, .. } = pod.account("business").await;
    let business = pod.client(&token);
    for (lease, status) in [("999ms", 403), ("1s", 200), ("24h", 200), ("86400001ms", 403)] {
        let answer = business.get(&format!("/v1/acquire/range-{lease}?lease={lease}")).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
    pod.operator(&["account", "set-lease", &email, "5m"]).await;
    eventually(async || {
        business.get("/v1/release/own").await;
        business.get("/v1/acquire/own").await.json["lease_ms"] == 300_000
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_without_a_lease_repeats_the_last_requested_lease() {
    let cluster = Cluster::start(1).await;
    let embedded = Pod::start().await;
    for pod in [&cluster.pods[0], &embedded] {
        let account = pod.account("business").await;
        let client = pod.client(&account.token);
        let lease = async |path: &str| client.get(path).await.json["lease_ms"].clone();
        assert_eq!(lease("/v1/acquire/kept?owner=a&lease=5m").await, 300_000);
        assert_eq!(lease("/v1/heartbeat/kept?owner=a").await, 300_000);
        assert_eq!(lease("/v1/heartbeat/kept?owner=a&lease=90s").await, 90_000);
        assert_eq!(lease("/v1/heartbeat/kept?owner=a").await, 90_000);
        assert_eq!(lease("/v1/acquire/kept?owner=a").await, 60_000, "an acquire uses the account's default");
        assert_eq!(lease("/v1/heartbeat/kept?owner=a").await, 90_000, "the default is not a requested lease");
        assert_eq!(lease("/v1/acquire/kept?owner=a&lease=2h").await, 7_200_000);
        let shown = client.get("/v1/locks/kept").await.json;
        assert_eq!(lease("/v1/heartbeat/kept?owner=a").await, 7_200_000);
        assert_eq!(client.get("/v1/locks/kept").await.json["holder"]["acquired_at"], shown["holder"]["acquired_at"]);
        assert_eq!(lease("/v1/acquire/never?owner=a").await, 60_000);
        assert_eq!(lease("/v1/heartbeat/never?owner=a").await, 60_000);

        // A queued request whose lock is handed over.
        assert_eq!(lease("/v1/acquire/handed?owner=a").await, 60_000);
        let waiter = {
            let client = client.clone();
            tokio::spawn(async move { client.get("/v1/acquire/handed?owner=b&lease=4m&wait=30s").await })
        };
        eventually(async || client.get("/v1/locks/handed").await.json["waiting"] == 1).await;
        client.get("/v1/release/handed?owner=a").await;
        assert_eq!(waiter.await.unwrap().json["lease_ms"], 240_000);
        assert_eq!(lease("/v1/heartbeat/handed?owner=b").await, 240_000);

        // The lease is cut to the maximum of the plan; the heartbeat is never refused.
        pod.operator(&["plan", "set", "business", "--lease-max", "10m"]).await;
        eventually(async || lease("/v1/heartbeat/kept?owner=a").await == 600_000).await;
        pod.operator(&["plan", "set", "business", "--lease-max", "24h"]).await;
    }
}

#[tokio::test]
async fn namespaces_separate_names() {
    let pod = Pod::start().await;
    let Account { token, email, .. } = pod.account("business").await;
    pod.operator(&["namespace", "create", "--account", &email, "team"]).await;
    let client = pod.client(&token);
    eventually(async || client.get("/v1/acquire/name?namespace=team").await.status == 200).await;
    assert_eq!(client.get("/v1/acquire/name").await.json["response"], true, "public is another namespace");
    let held = client.get("/v1/acquire/name?namespace=team").await;
    assert_eq!((&held.json["response"], &held.json["namespace"]), (&json!(false), &json!("team")));
    assert_eq!(client.get("/v1/acquire/name?namespace=public").await.json["namespace"], "public");
    client.get("/v1/acquire/name?namespace=other").await.assert_problem(403, "namespace-denied");
}

fn is_rfc_3339_with_ms(text: &str) -> bool {
    text.len() == "2026-11-23T12:00:00.000Z".len() && text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
}
