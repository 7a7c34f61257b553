//! Limits on the number and the length of waits.

use super::{acquire, assert_granted, assert_refused, enqueue, release};
use crate::support::Pod;

#[tokio::test(flavor = "multi_thread")]
async fn number_and_length_of_waits_are_limited() {
    let pod = Pod::builder().env("LOCKABLE_WAITERS", "3").start().await;
    pod.operator(&["plan", "set", "business", "--waiters", "2"]).await;
    let [one, other] = [pod.account("business").await, pod.account("business").await].map(|a| pod.client(&a.token));
    assert_granted(&one.get("/v1/acquire/limits").await);

    let too_long = one.get("/v1/acquire/limits?wait=56s").await;
    too_long.assert_problem(400, "malformed-parameter");
    assert!(too_long.json["detail"].as_str().unwrap().contains("55s"), "{}", too_long.text);
    one.get("/v1/acquire/limits?wait=soon").await.assert_problem(400, "malformed-parameter");

    let waiters = [enqueue(&one, "limits", "").await, enqueue(&one, "limits", "").await];
    let third = one.get("/v1/acquire/limits?wait=10s").await;
    third.assert_problem(429, "too-many-waiting");
    assert!(third.header("retry-after").is_some());
    // An acquire without `wait` is answered at once.
    assert_refused(&acquire(&one, "limits").await, "held");
    let of_other = enqueue(&other, "limits", "").await;
    let fourth = other.get("/v1/acquire/limits?wait=10s").await;
    fourth.assert_problem(503, "unavailable");
    assert_eq!(one.get("/v1/heartbeat/limits").await.json["response"], true);

    release(&one, "limits").await;
    for waiter in waiters {
        assert_granted(&waiter.await.unwrap());
        release(&one, "limits").await;
    }
    assert_granted(&of_other.await.unwrap());
    assert_eq!(one.get("/v1/account").await.json["requests_waiting"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_rejects_as_many_waiters_as_connections_at_start() {
    let refusal = Pod::builder().env("LOCKABLE_WAITERS", "100").env("LOCKABLE_CONNECTIONS", "100");
    let (code, complaint) = refusal.expect_refusal().await;
    assert_ne!(code, Some(0));
    assert!(complaint.contains("LOCKABLE_WAITERS"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiter_over_its_lock_quota_yields_to_the_next() {
    let pod = Pod::start().await;
    pod.operator(&["plan", "set", "business", "--locks", "1"]).await;
    let [full, other] = [pod.account("business").await, pod.account("business").await].map(|a| pod.client(&a.token));
    assert_granted(&acquire(&other, "quota").await);
    let first = enqueue(&full, "quota", "").await;
    let second = enqueue(&other, "quota", "").await;
    assert_granted(&acquire(&full, "elsewhere").await);
    release(&other, "quota").await;
    first.await.unwrap().assert_problem(429, "too-many-locks");
    assert_granted(&second.await.unwrap());
}
