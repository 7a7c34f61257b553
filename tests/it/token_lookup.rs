//! Lookups of uncached tokens: concurrency limits per address, queueing, and failures.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use uuid::Uuid;

use crate::support::{
    Client, Cluster, Pod, Response, eventually,
    postgres::{Postgres, TableLock},
    redis::RedisServer,
};

/// The maximum of concurrent database lookups per address.
const LOOKUPS_MAX: usize = 4;
/// The maximum of concurrent Redis lookups per address.
const CACHE_LOOKUPS_MAX: usize = 256;
/// The maximum of running and queued lookups per address.
const QUEUED_LOOKUPS_MAX: usize = 1000;
/// The allowed failures per minute, in tests that need a limit.
const FAILURES_MAX: usize = 3;

/// A database with one table that cannot be read.
struct BlockedTable {
    postgres: Postgres,
    table: &'static str,
    lock: TableLock,
}

impl BlockedTable {
    async fn begin(postgres: Postgres, table: &'static str) -> Self {
        let lock = postgres.lock_table(table, "ACCESS EXCLUSIVE").await;
        Self { postgres, table, lock }
    }

    /// Returns the number of lookups that wait for the table.
    fn lookups(&self) -> usize {
        let statement = format!(
            "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid) \
             WHERE relation = '{0}'::regclass AND mode = 'AccessShareLock' AND NOT granted AND query LIKE '%FROM {0} %'",
            self.table
        );
        self.postgres.query(&statement).unwrap().trim().parse().unwrap()
    }

    /// Unlocks the table and returns the database.
    fn end(self) -> Postgres {
        self.lock.end();
        self.postgres
    }
}

/// Sends requests with random tokens, all at once.
fn guess(pod: &Pod, count: usize) -> FuturesUnordered<impl Future<Output = Response> + use<>> {
    let anonymous = pod.client_without_token();
    let ask = |_| {
        let anonymous = anonymous.clone();
        let guess = format!("Basic {}", STANDARD.encode(format!("{}:", Uuid::new_v4())));
        async move { anonymous.request("GET", "/v1/heartbeat/guess", &[("Authorization", &guess)]).await }
    };
    (0..count).map(ask).collect()
}

/// Returns whether the request timed out in the queue of lookups.
fn timed_out_in_queue(answer: &Response) -> bool {
    answer.json["detail"] == "too many new tokens from this address are queued for lookup; retry"
}

/// Starts a server; returns it, a client with a cached token, and its database, whose tokens are
/// unreadable from now on.
async fn slow_database(redis: &RedisServer, failures_per_minute: &str) -> (Pod, Client, BlockedTable) {
    let postgres = Postgres::database().await;
    let builder = Pod::builder().redis(redis).database(&postgres.url);
    let pod = builder.env("LOCKABLE_AUTH_FAILURES_PER_MINUTE", failures_per_minute).start().await;
    let client = pod.client(&pod.account("business").await.token);
    pod.wait_for_changes().await;
    assert_eq!(client.get("/v1/heartbeat/known").await.json["reason"], "not_held");
    (pod, client, BlockedTable::begin(postgres, "tokens").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_guesses_share_few_lookups_and_count_as_failures() {
    let redis = RedisServer::start();
    let (pod, known, blocked) = slow_database(&redis, &FAILURES_MAX.to_string()).await;
    let mut guesses = guess(&pod, 50);
    let (begun, mut answers, mut most) = (Instant::now(), Vec::new(), 0);
    while answers.len() < 50 {
        // After two seconds the first requests time out, while their lookups still wait in the
        // database.
        if begun.elapsed() < Duration::from_millis(1500) {
            most = most.max(blocked.lookups());
        }
        assert_eq!(known.get("/v1/heartbeat/known").await.status, 200, "a cached token");
        while let Ok(Some(answer)) = tokio::time::timeout(Duration::from_millis(10), guesses.next()).await {
            answers.push(answer);
        }
    }
    assert_eq!(most, LOOKUPS_MAX);
    // Some of the first lookups may have passed on their permits before the failures reached the
    // limit.
    let looked_up = answers.iter().filter(|answer| answer.status == 503).count();
    assert!((LOOKUPS_MAX..=LOOKUPS_MAX + FAILURES_MAX).contains(&looked_up), "{looked_up} lookups");
    for answer in answers.iter().filter(|answer| answer.status != 503) {
        answer.assert_problem(429, "too-many-failures");
        assert!(answer.header("retry-after").is_some());
    }
    blocked.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn request_without_a_lookup_in_time_returns_503() {
    let redis = RedisServer::start();
    let (pod, known, blocked) = slow_database(&redis, "1000").await;
    let mut guesses = guess(&pod, 12);
    let mut was_looked_up = Vec::new();
    while let Some(answer) = guesses.next().await {
        answer.assert_problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
        was_looked_up.push(!timed_out_in_queue(&answer));
        assert_eq!(known.get("/v1/heartbeat/known").await.status, 200, "a cached token");
    }
    // Two rounds of lookups take two seconds each, and no request waits for the third.
    assert_eq!(was_looked_up, [[true; 4], [false; 4], [true; 4]].concat());
    blocked.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_request_holds_its_lookup_permit_until_the_lookup_ends() {
    let redis = RedisServer::start();
    let (pod, _, blocked) = slow_database(&redis, "1000").await;
    let first = tokio::spawn(guess(&pod, LOOKUPS_MAX).count());
    eventually(async || blocked.lookups() == LOOKUPS_MAX).await;
    let begun = Instant::now();
    first.abort();
    let second = tokio::spawn(guess(&pod, LOOKUPS_MAX).count());
    while begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(blocked.lookups(), LOOKUPS_MAX);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Then these lookups time out, and the other requests get their permits.
    eventually(async || blocked.lookups() > LOOKUPS_MAX).await;
    second.abort();
    blocked.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_invalid_sessions_share_few_lookups() {
    let redis = RedisServer::start();
    let (pod, _, blocked) = slow_database(&redis, &FAILURES_MAX.to_string()).await;
    let blocked = BlockedTable::begin(blocked.end(), "sessions").await;
    let anonymous = pod.client_without_token();
    let visit = |_| {
        let anonymous = anonymous.clone();
        let cookie = format!("__Host-lockable={}", "0".repeat(64));
        async move { anonymous.request("GET", "/account/tokens", &[("Cookie", &cookie)]).await }
    };
    let mut visits: FuturesUnordered<_> = (0..50).map(visit).collect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert!(blocked.lookups() <= LOOKUPS_MAX);
        let _ = tokio::time::timeout(Duration::from_millis(10), visits.next()).await;
    }
    assert_eq!(blocked.lookups(), LOOKUPS_MAX);
    blocked.end();
    let answers: Vec<_> = visits.map(|answer| answer.status).collect().await;
    let looked_up = answers.iter().filter(|status| **status == 303).count();
    assert!((LOOKUPS_MAX..=LOOKUPS_MAX + FAILURES_MAX).contains(&looked_up), "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 429).count(), 50 - looked_up, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_lookups_per_address_are_limited() {
    let redis = RedisServer::start();
    let pod = Pod::builder().redis(&redis).env("LOCKABLE_REDIS_TIMEOUT", "8s").start().await;
    redis.pause();
    let mut guesses = guess(&pod, QUEUED_LOOKUPS_MAX + 10);
    for _ in 0..10 {
        let answer = guesses.next().await.unwrap();
        answer.assert_problem(429, "too-many-lookups");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let answers: Vec<_> = guesses.collect().await;
    for answer in &answers {
        answer.assert_problem(503, "unavailable");
    }
    // The other requests were sent to Redis, which does not reply in time.
    let waited = answers.iter().filter(|answer| timed_out_in_queue(answer)).count();
    assert_eq!(waited, QUEUED_LOOKUPS_MAX - CACHE_LOOKUPS_MAX);
    redis.resume();
}

/// Simulates the CI runners of one account behind one address after the server has started.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_with_one_token_share_a_lookup() {
    let redis = RedisServer::start();
    let pod = Pod::builder().redis(&redis).env("LOCKABLE_REDIS_TIMEOUT", "5s").start().await;
    let client = pod.client(&pod.account("business").await.token);
    redis.pause();
    let ask = |_| {
        let client = client.clone();
        async move { client.get("/v1/heartbeat/shared").await }
    };
    let mut requests: FuturesUnordered<_> = (0..QUEUED_LOOKUPS_MAX + 200).map(ask).collect();
    let refused = tokio::time::timeout(Duration::from_secs(1), requests.next()).await;
    assert!(refused.is_err(), "{refused:?}");
    redis.resume();
    let answers: Vec<_> = requests.collect().await;
    assert_eq!(answers.len(), QUEUED_LOOKUPS_MAX + 200);
    for answer in answers {
        assert_eq!(answer.json["reason"], "not_held", "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_lookups_hold_no_request_permits() {
    let redis = RedisServer::start();
    let (timeout, few) = (("LOCKABLE_REDIS_TIMEOUT", "5s"), ("LOCKABLE_REQUESTS", "10"));
    let pod = Pod::builder().redis(&redis).env(timeout.0, timeout.1).env(few.0, few.1).start().await;
    let client = pod.client(&pod.account("business").await.token);
    redis.pause();
    let ask = |_| {
        let client = client.clone();
        async move { client.get("/v1/acquire/shared").await }
    };
    let mut requests: FuturesUnordered<_> = (0..100).map(ask).collect();
    let refused = tokio::time::timeout(Duration::from_secs(1), requests.next()).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(pod.client_without_token().get("/openapi.json").await.status, 200);
    redis.resume();
    assert_eq!(requests.count().await, 100);
}

/// Simulates a build farm behind one address after the server has started.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_new_tokens_at_once_are_accepted() {
    let cluster = Cluster::start(1).await;
    cluster.account("business").await;
    let tokens: Vec<_> = (0..200).map(|_| Uuid::new_v4().to_string()).collect();
    let statement = format!(
        "INSERT INTO tokens (id, account, hash, label, may_lock, may_manage, default_namespace, created_at) \
         SELECT gen_random_uuid()::text, account, encode(sha256(convert_to(token, 'UTF8')), 'hex'), label, may_lock, \
         may_manage, default_namespace, created_at FROM tokens, unnest('{{{}}}'::text[]) token",
        tokens.join(",")
    );
    cluster.postgres.query(&statement).unwrap();
    let jobs: Vec<_> = tokens.iter().map(|token| cluster.pods[0].client(token)).collect();
    let answers = join_all(jobs.iter().map(|job| job.get("/v1/heartbeat/farm"))).await;
    for answer in answers {
        assert_eq!(answer.json["reason"], "not_held", "{}", answer.text);
    }
}
