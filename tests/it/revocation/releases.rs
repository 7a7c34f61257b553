//! Any token of an account may release its locks; the audit log records releases of grants of other
//! tokens.

use serde_json::{Value, json};

use crate::support::{Account, Client, Cluster, eventually};

/// Returns the audit rows of releases, the oldest first.
fn rows(cluster: &Cluster) -> Vec<Value> {
    let rows = "SELECT json_build_object('actor', actor, 'detail', detail::json) FROM audit \
                WHERE action = 'lock.release' ORDER BY at, id";
    cluster.postgres.query(rows).unwrap().lines().map(|row| serde_json::from_str(row).unwrap()).collect()
}

/// Creates another token of an account; returns its client and its id. All have the same label.
async fn token(cluster: &Cluster, account: &Account) -> (Client, String) {
    let made = cluster.operator(&["token", "create", "--account", &account.email, "--label", "ci"]).await;
    (cluster.pods[0].client(made["token"].as_str().unwrap()), made["id"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn release_by_another_token_is_audited() {
    let cluster = Cluster::start(1).await;
    let account = cluster.account("business").await;
    let ((ana, ana_id), (bob, bob_id)) = (token(&cluster, &account).await, token(&cluster, &account).await);
    let end = ana_id.get(ana_id.len() - 6..).unwrap();

    // Also after a heartbeat, and for a lease in the journal.
    for lease in ["30s", "1h"] {
        let granted = ana.get(&format!("/v1/acquire/db?owner=job&lease={lease}")).await;
        ana.get("/v1/heartbeat/db?owner=job").await;
        assert_eq!(bob.get("/v1/locks/db").await.json["holder"]["token_label"], "ci");
        assert_eq!(bob.get("/v1/release/db?owner=job").await.json["response"], true);
        let before = usize::from(lease != "30s");
        eventually(async || rows(&cluster).len() > before).await;
        let row = rows(&cluster).pop().unwrap();
        assert_eq!(row["actor"], format!("token:{bob_id}"));
        let holder = json!({
            "owner": "job", "token_label": "ci", "token_end": end, "fencing_token": granted.json["fencing_token"],
        });
        assert_eq!(row["detail"], json!({"by": "ci", "namespace": "public", "name": "db", "holder": holder}));
    }

    let info = r#"{"ID":"run-1","Operation":"OperationTypeApply","Who":"ana@there"}"#;
    assert_eq!(ana.post_body("/v1/terraform/state", "application/json", info).await.status, 200);
    let headers = [("Content-Type", "application/json")];
    assert_eq!(
        bob.post_body("/v1/terraform/state", "application/json", info).await.status,
        200,
        "a retry of the same run"
    );
    assert_eq!(
        bob.request("DELETE", "/v1/terraform/state", &headers).await.status,
        403,
        "a force-unlock without the scope manage"
    );
    assert_eq!(bob.send_body("UNLOCK", "/v1/terraform/state", info).await.status, 200);
    eventually(async || rows(&cluster).len() == 3).await;
    assert_eq!(rows(&cluster)[2]["detail"]["holder"]["owner"], "run-1");

    // A release by the acquiring token adds no row; the row of the last release proves that no
    // other is pending.
    for _ in 0..3 {
        assert_eq!(ana.get("/v1/acquire/own").await.json["response"], true);
        assert_eq!(ana.get("/v1/release/own").await.json["response"], true);
    }
    assert_eq!(bob.get("/v1/acquire/last").await.json["response"], true);
    assert_eq!(ana.get("/v1/release/last").await.json["response"], true);
    eventually(async || rows(&cluster).len() >= 4).await;
    assert_eq!(rows(&cluster)[3]["detail"]["name"], "last");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_rows_of_releases_are_rate_limited() {
    let cluster = Cluster::start(1).await;
    let account = cluster.account("business").await;
    let ((ana, _), (bob, _)) = (token(&cluster, &account).await, token(&cluster, &account).await);
    let unrecorded =
        async || cluster.pods[0].metric("lockable_releases_unrecorded_total").await.unwrap_or_default() as usize;
    for count in 0..230 {
        assert_eq!(ana.get(&format!("/v1/acquire/x-{count}")).await.json["response"], true);
        assert_eq!(bob.get(&format!("/v1/release/x-{count}")).await.json["response"], true);
    }
    eventually(async || rows(&cluster).len() + unrecorded().await == 230).await;
    assert!((200..=225).contains(&rows(&cluster).len()), "{} rows", rows(&cluster).len());
    // The rate limit affects nothing else.
    let made = cluster.operator(&["token", "create", "--account", &account.email, "--scope", "manage"]).await;
    let manager = cluster.pods[0].client(made["token"].as_str().unwrap());
    assert_eq!(ana.get("/v1/acquire/held").await.json["response"], true);
    assert_eq!(manager.request("DELETE", "/v1/locks/held", &[]).await.status, 200);
}
