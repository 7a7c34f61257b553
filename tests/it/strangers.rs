//! Tokens that a server has not met: how many of one address are looked up at
//! once, and what becomes of the others.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use uuid::Uuid;

use crate::support::{
    Answer, Client, Cluster, Pod, eventually,
    postgres::{Postgres, TableLock},
    redis::RedisServer,
};

/// How many lookups of one address the database has at once.
const LOOKUPS_MAX: usize = 4;
/// And Redis.
const CACHE_LOOKUPS_MAX: usize = 256;
/// How many have a turn or wait for one.
const LINE_MAX: usize = 1000;
/// How many failures an address may make where that matters.
const FAILURES_MAX: usize = 3;

/// A database in which one table cannot be read for now.
struct Slow {
    postgres: Postgres,
    table: &'static str,
    lock: TableLock,
}

impl Slow {
    async fn begin(postgres: Postgres, table: &'static str) -> Self {
        let lock = postgres.lock_table(table, "ACCESS EXCLUSIVE").await;
        Self { postgres, table, lock }
    }

    /// How many lookups wait.
    fn lookups(&self) -> usize {
        let statement = format!(
            "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid) \
             WHERE relation = '{0}'::regclass AND mode = 'AccessShareLock' AND NOT granted AND query LIKE '%FROM {0} %'",
            self.table
        );
        self.postgres.query(&statement).unwrap().trim().parse().unwrap()
    }

    /// Returns the database.
    fn end(self) -> Postgres {
        self.lock.end();
        self.postgres
    }
}

/// Made-up tokens, all tried at once.
fn guess(pod: &Pod, count: usize) -> FuturesUnordered<impl Future<Output = Answer> + use<>> {
    let nobody = pod.client_without_token();
    let ask = |_| {
        let nobody = nobody.clone();
        let guess = format!("Basic {}", STANDARD.encode(format!("{}:", Uuid::new_v4())));
        async move { nobody.request("GET", "/v1/heartbeat/guess", &[("Authorization", &guess)]).await }
    };
    (0..count).map(ask).collect()
}

/// Whether it had no turn in time.
fn is_still_waiting(answer: &Answer) -> bool {
    answer.json["detail"] == "too many tokens from this address wait to be looked up"
}

/// A pod, a client that it knows, and its database, which is slow from now on.
async fn slow_database(redis: &RedisServer, failures_per_minute: &str) -> (Pod, Client, Slow) {
    let postgres = Postgres::database().await;
    let builder = Pod::builder().redis(redis).database(&postgres.url);
    let pod = builder.env("LOCKABLE_AUTH_FAILURES_PER_MINUTE", failures_per_minute).start().await;
    let client = pod.client(&pod.account("business").await.token);
    pod.follow_changes().await;
    assert_eq!(client.get("/v1/heartbeat/known").await.json["reason"], "not_held");
    (pod, client, Slow::begin(postgres, "tokens").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guesses_at_once_are_a_few_lookups_and_count_when_the_database_is_slow() {
    let redis = RedisServer::start();
    let (pod, known, slow) = slow_database(&redis, &FAILURES_MAX.to_string()).await;
    let mut guesses = guess(&pod, 50);
    let (begun, mut answers, mut most) = (Instant::now(), Vec::new(), 0);
    while answers.len() < 50 {
        // After two seconds the first are given up, and still wait in the database.
        if begun.elapsed() < Duration::from_millis(1500) {
            most = most.max(slow.lookups());
        }
        assert_eq!(known.get("/v1/heartbeat/known").await.status, 200, "a token in use");
        while let Ok(Some(answer)) = tokio::time::timeout(Duration::from_millis(10), guesses.next()).await {
            answers.push(answer);
        }
    }
    assert_eq!(most, LOOKUPS_MAX);
    // Some of the first may have handed on their turns before there were too many failures.
    let looked_up = answers.iter().filter(|answer| answer.status == 503).count();
    assert!((LOOKUPS_MAX..=LOOKUPS_MAX + FAILURES_MAX).contains(&looked_up), "{looked_up} lookups");
    for answer in answers.iter().filter(|answer| answer.status != 503) {
        answer.assert_problem(429, "too-many-failures");
        assert!(answer.header("retry-after").is_some());
    }
    slow.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_no_turn_in_time_is_told_to_ask_again() {
    let redis = RedisServer::start();
    let (pod, known, slow) = slow_database(&redis, "1000").await;
    let mut guesses = guess(&pod, 12);
    let mut had_turn = Vec::new();
    while let Some(answer) = guesses.next().await {
        answer.assert_problem(503, "unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
        had_turn.push(!is_still_waiting(&answer));
        assert_eq!(known.get("/v1/heartbeat/known").await.status, 200, "a token in use");
    }
    // Two rounds of lookups take two seconds each, and nobody waits for the third.
    assert_eq!(had_turn, [[true; 4], [false; 4], [true; 4]].concat());
    slow.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_has_a_turn_for_as_long_as_it_is_used() {
    let redis = RedisServer::start();
    let (pod, _, slow) = slow_database(&redis, "1000").await;
    let first = tokio::spawn(guess(&pod, LOOKUPS_MAX).count());
    eventually(async || slow.lookups() == LOOKUPS_MAX).await;
    let begun = Instant::now();
    first.abort();
    let second = tokio::spawn(guess(&pod, LOOKUPS_MAX).count());
    while begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(slow.lookups(), LOOKUPS_MAX);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Then they are given up, and the others have their turn.
    eventually(async || slow.lookups() > LOOKUPS_MAX).await;
    second.abort();
    slow.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_made_up_sessions_at_once_are_a_few_lookups() {
    let redis = RedisServer::start();
    let (pod, _, slow) = slow_database(&redis, &FAILURES_MAX.to_string()).await;
    let slow = Slow::begin(slow.end(), "sessions").await;
    let nobody = pod.client_without_token();
    let visit = |_| {
        let nobody = nobody.clone();
        let cookie = format!("__Host-lockable={}", "0".repeat(64));
        async move { nobody.request("GET", "/account/tokens", &[("Cookie", &cookie)]).await }
    };
    let mut visits: FuturesUnordered<_> = (0..50).map(visit).collect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert!(slow.lookups() <= LOOKUPS_MAX);
        let _ = tokio::time::timeout(Duration::from_millis(10), visits.next()).await;
    }
    assert_eq!(slow.lookups(), LOOKUPS_MAX);
    slow.end();
    let answers: Vec<_> = visits.map(|answer| answer.status).collect().await;
    let looked_up = answers.iter().filter(|status| **status == 303).count();
    assert!((LOOKUPS_MAX..=LOOKUPS_MAX + FAILURES_MAX).contains(&looked_up), "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 429).count(), 50 - looked_up, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_has_more_than_its_share_of_lookups_in_redis() {
    let redis = RedisServer::start();
    let pod = Pod::builder().redis(&redis).env("LOCKABLE_REDIS_TIMEOUT", "8s").start().await;
    redis.pause();
    let mut guesses = guess(&pod, LINE_MAX + 10);
    for _ in 0..10 {
        let answer = guesses.next().await.unwrap();
        answer.assert_problem(429, "too-many-lookups");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let answers: Vec<_> = guesses.collect().await;
    for answer in &answers {
        answer.assert_problem(503, "unavailable");
    }
    // The others have got through to Redis, which does not answer in time.
    let waited = answers.iter().filter(|answer| is_still_waiting(answer)).count();
    assert_eq!(waited, LINE_MAX - CACHE_LOOKUPS_MAX);
    redis.resume();
}

/// As runners of one account do behind one address, when a server has just started.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_with_one_token_is_one_lookup() {
    let redis = RedisServer::start();
    let pod = Pod::builder().redis(&redis).env("LOCKABLE_REDIS_TIMEOUT", "5s").start().await;
    let client = pod.client(&pod.account("business").await.token);
    redis.pause();
    let ask = |_| {
        let client = client.clone();
        async move { client.get("/v1/heartbeat/crowd").await }
    };
    let mut crowd: FuturesUnordered<_> = (0..LINE_MAX + 200).map(ask).collect();
    let refused = tokio::time::timeout(Duration::from_secs(1), crowd.next()).await;
    assert!(refused.is_err(), "{refused:?}");
    redis.resume();
    let answers: Vec<_> = crowd.collect().await;
    assert_eq!(answers.len(), LINE_MAX + 200);
    for answer in answers {
        assert_eq!(answer.json["reason"], "not_held", "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_a_lookup_keep_no_other_from_being_served() {
    let redis = RedisServer::start();
    let (timeout, few) = (("LOCKABLE_REDIS_TIMEOUT", "5s"), ("LOCKABLE_REQUESTS", "10"));
    let pod = Pod::builder().redis(&redis).env(timeout.0, timeout.1).env(few.0, few.1).start().await;
    let client = pod.client(&pod.account("business").await.token);
    redis.pause();
    let ask = |_| {
        let client = client.clone();
        async move { client.get("/v1/acquire/crowd").await }
    };
    let mut crowd: FuturesUnordered<_> = (0..100).map(ask).collect();
    let refused = tokio::time::timeout(Duration::from_secs(1), crowd.next()).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(pod.client_without_token().get("/openapi.json").await.status, 200);
    redis.resume();
    assert_eq!(crowd.count().await, 100);
}

/// As a farm's do behind one address, when the server has just started.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_jobs_with_new_tokens_at_once_are_let_in() {
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
