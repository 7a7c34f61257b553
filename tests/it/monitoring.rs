//! The alert rules and the dashboard, evaluated by a real Prometheus.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    Client, Pod, eventually,
    postgres::Postgres,
    process::{Process, free_port},
    redis::RedisServer,
};

const DASHBOARD: &str = include_str!("../../k8s/components/monitoring/dashboard.json");
const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yml");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

async fn prometheus(scrape: &str, alerts: &str, folder: &Path) -> (Process, Client) {
    let port = free_port();
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: [alerts.yml]\n\
         scrape_configs:\n  - job_name: lockable\n    static_configs: [{{targets: [\"{scrape}\"]}}]\n"
    );
    fs::write(folder.join("prometheus.yml"), config).unwrap();
    fs::write(folder.join("alerts.yml"), alerts).unwrap();
    let mut command = Command::new("prometheus");
    command
        .current_dir(folder)
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let started = (Process::start(command), Client::new(&format!("http://127.0.0.1:{port}"), None));
    eventually(async || started.1.try_get("/-/ready").await.is_some_and(|answer| answer.status == 200)).await;
    started
}

async fn query(client: &Client, expression: &str) -> Value {
    let encoded = percent_encoding::utf8_percent_encode(expression, percent_encoding::NON_ALPHANUMERIC);
    let answer = client.get(&format!("/api/v1/query?query={encoded}")).await;
    assert_eq!(answer.json["status"], "success", "{expression}: {}", answer.text);
    answer.json["data"]["result"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_has_data_and_every_alert_is_documented() {
    let (redis, postgres) = (RedisServer::start(), Postgres::database().await);
    let pod = Pod::builder().redis(&redis).database(&postgres.url).start().await;
    let client = pod.client(&pod.account("business").await.token);
    let folder = tempfile::tempdir().unwrap();
    let (_process, prometheus) = prometheus(&pod.admin_address(), ALERTS, folder.path()).await;
    // Continuous traffic of every kind.
    let traffic = tokio::spawn(async move {
        for number in 0.. {
            let owner = |who: &str| format!("owner={who}-{number}");
            client.get(&format!("/v1/acquire/seen?{}", owner("a"))).await;
            client.get(&format!("/v1/heartbeat/seen?{}", owner("b"))).await;
            let waits = {
                let (client, path) = (client.clone(), format!("/v1/acquire/seen?wait=5s&{}", owner("b")));
                tokio::spawn(async move { client.get(&path).await })
            };
            client.get(&format!("/v1/release/seen?{}", owner("a"))).await;
            waits.await.unwrap();
            client.get(&format!("/v1/release/seen?{}", owner("b"))).await;
        }
    });

    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    for panel in panels {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let expression = expression.replace("$__rate_interval", "30s").replace("$job", "lockable");
            eventually(async || {
                let found = query(&prometheus, &expression).await;
                !found.as_array().unwrap().is_empty()
            })
            .await;
        }
    }
    traffic.abort();
    let _ = traffic.await;

    let rules = prometheus.get("/api/v1/rules").await.json;
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert_eq!(rules.len(), ALERTS.matches("- alert: ").count());
    for rule in &rules {
        assert_eq!((&rule["health"], &rule["lastError"]), (&"ok".into(), &Value::Null), "{rule}");
        // The document explains each alert and the action to take.
        let name = rule["name"].as_str().unwrap();
        assert!(OPERATIONS.contains(&format!("### {name}\n")), "docs/operations.md does not explain {name}");
    }
}

/// Returns the names of the firing alerts.
async fn firing(client: &Client) -> Vec<String> {
    let alerts = query(client, r#"ALERTS{alertstate="firing"}"#).await;
    let names =
        alerts.as_array().unwrap().iter().map(|alert| alert["metric"]["alertname"].as_str().unwrap().to_owned());
    names.collect()
}

/// Asserts that the alerts fire and resolve during a whole recovery, which `lose` starts.
async fn assert_recovery_alerts_resolve(mut pod: Pod, lose: impl AsyncFnOnce(&mut Pod)) {
    let folder = tempfile::tempdir().unwrap();
    // Shorten the periods of the rules, because a recovery takes seconds in this test instead of a
    // minute.
    let alerts = ALERTS.replace("[10m]", "[15s]").replace("for: 3m", "for: 12s");
    let (_process, prometheus) = prometheus(&pod.admin_address(), &alerts, folder.path()).await;
    eventually(async || query(&prometheus, "lockable_recovering == 0").await != serde_json::json!([])).await;
    assert!(!firing(&prometheus).await.contains(&"LockableRecovery".to_owned()));
    lose(&mut pod).await;
    eventually(async || query(&prometheus, "lockable_recovering == 1").await != serde_json::json!([])).await;
    eventually(async || firing(&prometheus).await.contains(&"LockableRecovery".to_owned())).await;
    eventually(async || pod.admin().get("/readyz").await.json["locks"] == "ok").await;
    assert_eq!(pod.metric("lockable_recovering").await, Some(0.0));
    let client = pod.client(&pod.account("business").await.token);
    assert_eq!(client.get("/v1/acquire/afterwards").await.json["response"], true);
    eventually(async || !firing(&prometheus).await.contains(&"LockableRecovery".to_owned())).await;
    let stuck =
        query(&prometheus, r#"max_over_time(ALERTS{alertname="LockableRecoveryStuck",alertstate="firing"}[5m])"#);
    assert_eq!(stuck.await, serde_json::json!([]), "the alert LockableRecoveryStuck fired for a normal recovery");
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_alerts_resolve_on_redis() {
    let (redis, postgres) = (RedisServer::start(), Postgres::database().await);
    let pod = Pod::builder().redis(&redis).database(&postgres.url).env("LOCKABLE_JOURNAL_ABOVE", "1s").start().await;
    let client = pod.client(&pod.account("business").await.token);
    assert_eq!(client.get("/v1/acquire/before?lease=1h").await.json["response"], true);
    assert_recovery_alerts_resolve(pod, async |_| drop(redis.cli(&["FLUSHALL"]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_alerts_resolve_embedded() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("accounts.db").display());
    let admin = format!("127.0.0.1:{}", free_port());
    let start = async || {
        let pod = Pod::builder().database(&database).env("LOCKABLE_JOURNAL_ABOVE", "1s");
        pod.env("LOCKABLE_ADMIN_LISTEN", &admin).start().await
    };
    let pod = start().await;
    let client = pod.client(&pod.account("business").await.token);
    eventually(async || client.get("/v1/acquire/before?lease=1h").await.json["response"] == true).await;
    assert_recovery_alerts_resolve(pod, async |pod| {
        pod.kill();
        *pod = start().await;
    })
    .await;
}

#[tokio::test]
async fn alert_rules_pass_promtool_and_match_the_kubernetes_resource() {
    let rules = tokio::process::Command::new("promtool")
        .args(["test", "rules", "alerts.test.yml"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus"))
        .output()
        .await
        .unwrap();
    assert!(rules.status.success(), "{}", String::from_utf8_lossy(&rules.stderr));

    let resource = include_str!("../../k8s/components/monitoring/alerts.yaml");
    let spec = resource.split("spec:\n").nth(1).unwrap().lines();
    let spec: String = spec.map(|line| format!("{}\n", line.strip_prefix("  ").unwrap())).collect();
    assert_eq!(spec, ALERTS, "k8s/components/monitoring/alerts.yaml differs from deploy/prometheus/alerts.yml");
}
