use super::{id_of, insert_tokens};
use crate::support::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_large_account_cause_no_lookups_for_others() {
    let cluster = Cluster::start(2).await;
    let (big, other) = (cluster.account("business").await, cluster.account("business").await);
    let big_id = id_of(&cluster, &big.email).await;
    insert_tokens(&cluster, &big_id, "big", 5_000, "NULL");
    let looked_up = async || {
        let mut sum = 0;
        for pod in &cluster.pods {
            sum += pod.metric("lockable_token_lookups_total{source=\"database\"}").await.unwrap_or_default() as u64;
        }
        sum
    };
    let use_other = async || {
        for pod in &cluster.pods {
            assert_eq!(pod.client(&other.token).get("/v1/account").await.status, 200);
        }
    };
    use_other().await;
    let before = looked_up().await;
    for lease in ["5m", "6m", "7m"] {
        cluster.operator(&["account", "set-lease", &big.email, lease]).await;
        for pod in &cluster.pods {
            pod.wait_for_changes().await;
        }
        use_other().await;
    }
    assert_eq!(looked_up().await, before, "the token of another account was looked up again");
    let client = cluster.pods[0].client(&big.token);
    assert_eq!(client.get("/v1/account").await.json["lease_ms"], 420_000, "its own changes are seen");
}
