//! Operator commands on the locks of any account.

use serde_json::json;

use super::SOON;
use crate::support::{Cluster, Pod, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn operator_shows_and_breaks_locks_of_any_account() {
    let (embedded, cluster) = (Pod::start().await, Cluster::start(2).await);
    for pod in [&embedded, &cluster.pods[0]] {
        let [ana, bob] = [pod.account("business").await, pod.account("business").await];
        let [holder, waiter] = [&ana, &bob].map(|account| pod.client(&account.token));
        let granted = holder.get("/v1/acquire/db/main?owner=job&note=by%20ana&lease=24h").await;
        let waiting = tokio::spawn({
            let waiter = waiter.clone();
            async move { waiter.get("/v1/acquire/db/main?wait=40s").await }
        });
        eventually(async || holder.get("/v1/locks/db/main").await.json["waiting"] == 1).await;

        let shown = pod.operator(&["lock", "show", "db/main"]).await;
        for (member, value) in [
            ("held", json!(true)),
            ("email", json!(ana.email)),
            ("owner", json!("job")),
            ("note", json!("by ana")),
            ("token_label", json!("first")),
            ("fencing_token", granted.json["fencing_token"].clone()),
            ("waiting", json!(1)),
        ] {
            assert_eq!(shown[member], value, "{member}: {shown}");
        }
        let (code, _, complaint) = pod.run(&["lock", "break", "db/main", "--fencing-token", "1"]).await;
        assert_eq!(code, Some(3), "{complaint}");
        let (code, stdout, complaint) = pod.run(&["lock", "break", "db/main"]).await;
        assert_eq!(code, Some(0), "{complaint}");
        assert!(stdout.contains(&format!("broke db/main, which {} held", ana.email)), "{stdout}");
        assert_eq!(waiting.await.unwrap().json["response"], true, "the next waiter is granted the lock");
        assert_eq!(holder.get("/v1/heartbeat/db/main?owner=job").await.json["response"], false);

        pod.operator(&["namespace", "create", "--account", &ana.email, "team"]).await;
        eventually(async || holder.get("/v1/acquire/x?namespace=team").await.json["response"] == true).await;
        assert_eq!(
            pod.operator(&["lock", "show", "x"]).await["held"],
            false,
            "the lock of the same name in another namespace"
        );
        let team = ["--account", &ana.email, "--namespace", "team"];
        assert_eq!(pod.operator(&[&["lock", "show", "x"][..], &team].concat()).await["held"], true);
        pod.operator(&[&["lock", "break", "x"][..], &team].concat()).await;
        assert_eq!(holder.get("/v1/heartbeat/x?namespace=team").await.json["response"], false);
        assert_eq!(pod.run(&[&["lock", "break", "x"][..], &team].concat()).await.0, Some(3), "the lock is free");
    }
    let rows = "SELECT action || ' ' || actor FROM audit WHERE action LIKE 'lock.%' ORDER BY at, id";
    let rows = cluster.postgres.query(rows).unwrap();
    let rows: Vec<_> = rows.lines().collect();
    let [shown, broken] = ["lock.show operator", "lock.break operator"];
    assert_eq!(rows, [shown, shown, shown, broken, shown, shown, broken]);
    assert_eq!(cluster.postgres.query("SELECT COUNT(*) FROM operator_requests").unwrap().trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_commands_fail_without_a_running_server() {
    let mut pod = Pod::start().await;
    assert_eq!(pod.stop().await, Some(0));
    let (code, _, complaint) = pod.run(&["lock", "show", "x"]).await;
    assert_eq!(
        (code, complaint.trim()),
        (Some(1), "lockable: no server of this database answered within 10 s; check that a server is running")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_deletes_account_and_its_locks() {
    let (embedded, cluster) = (Pod::start().await, Cluster::start(2).await);
    for pod in [&embedded, &cluster.pods[1]] {
        let [ana, bob] = [pod.account("business").await, pod.account("business").await];
        let [holder, waiter] = [&ana, &bob].map(|account| pod.client(&account.token));
        for name in ["short", "long?lease=24h"] {
            assert_eq!(holder.get(&format!("/v1/acquire/{name}")).await.json["response"], true);
        }
        assert_eq!(waiter.get("/v1/acquire/bobs").await.json["response"], true);
        // A queued request of the account, and one that waits for a lock of the account.
        let [ends, granted] = [(&holder, "bobs"), (&waiter, "long")].map(|(client, name)| {
            let (client, path) = (client.clone(), format!("/v1/acquire/{name}?wait=40s"));
            tokio::spawn(async move { client.get(&path).await })
        });
        for name in ["bobs", "long"] {
            eventually(async || waiter.get(&format!("/v1/locks/{name}")).await.json["waiting"] == 1).await;
        }

        pod.operator(&["account", "delete", &ana.email]).await;
        let deleted = std::time::Instant::now();
        ends.await.unwrap().assert_problem(401, "unauthenticated");
        assert_eq!(granted.await.unwrap().json["response"], true);
        eventually(async || waiter.get("/v1/locks/short").await.json["held"] == false).await;
        assert!(deleted.elapsed() < SOON, "{:?}", deleted.elapsed());
        assert_eq!(pod.run(&["account", "show", &ana.email]).await.0, Some(3));
        assert_eq!(pod.run(&["account", "delete", &ana.email]).await.0, Some(3));
        // The e-mail address can be used again.
        pod.operator(&["account", "create", "--email", &ana.email]).await;
    }
}
