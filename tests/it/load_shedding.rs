//! Load shedding: which requests are rejected under overload.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{Pod, eventually, postgres::Postgres, redis::RedisServer};

/// Begins a request whose body never completes.
async fn begin_slowly(pod: &Pod, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(pod.authority("127.0.0.1")).await.unwrap();
    let credentials = STANDARD.encode(format!("{token}:"));
    let head = format!(
        "POST /v1/acquire/slow HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {credentials}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 10\r\n\r\nowner"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_rejects_requests_except_heartbeats_and_releases() {
    let (redis, postgres) = (RedisServer::start(), Postgres::database().await);
    let pod = Pod::builder()
        .redis(&redis)
        .database(&postgres.url)
        .env("LOCKABLE_REDIS_TIMEOUT", "2s")
        .env("LOCKABLE_REQUESTS", "1")
        .start()
        .await;
    let token = pod.account("business").await.token;
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/mine").await.json["response"], true);
    // A queued request takes no in-flight permit.
    let waiter = {
        let client = client.clone();
        tokio::spawn(async move {
            loop {
                let answer = client.get("/v1/acquire/mine?owner=waiter&wait=30s").await;
                // The polling request below may have taken the only permit.
                if answer.status != 503 {
                    return answer;
                }
            }
        })
    };
    eventually(async || client.get("/v1/locks/mine").await.json["waiting"] == 1).await;

    // The request without a reply takes the only permit.
    redis.pause();
    let stuck = {
        let client = client.clone();
        tokio::spawn(async move { client.get("/v1/acquire/stuck").await })
    };
    let refused = loop {
        // If this request came first, it is the one without a reply.
        let refused = client.get("/v1/acquire/other?owner=probe").await;
        if refused.text.contains("serves only heartbeats and releases") || stuck.is_finished() {
            break refused;
        }
    };
    assert_eq!((refused.status, refused.json["type"].as_str()), (503, Some("/problems/unavailable")));
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    for route in ["heartbeat", "release"] {
        let answer = client.get(&format!("/v1/{route}/unknown")).await.text;
        assert!(!answer.contains("serves only heartbeats and releases"), "{answer}");
    }
    redis.resume();
    stuck.await.unwrap();
    eventually(async || client.get("/v1/release/mine").await.json["response"] == true).await;
    assert_eq!(waiter.await.unwrap().json["response"], true);

    // Slow bodies take no permit, and time out. A request that arrives during the authentication of
    // another one is rejected, possibly all of them.
    let mut timed_out = 0;
    for round in 0.. {
        assert!(round < 10, "every slow request was rejected");
        let begun = Instant::now();
        let mut slow = Vec::new();
        for _ in 0..5 {
            slow.push(begin_slowly(&pod, &token).await);
        }
        eventually(async || client.get("/v1/acquire/quick?owner=quick").await.json["response"] == true).await;
        for mut slow in slow {
            let mut answer = String::new();
            let read = timeout(Duration::from_secs(20), slow.read_to_string(&mut answer)).await;
            read.expect("the slow request is answered").unwrap();
            assert!(
                answer.contains("/problems/body-too-slow") || answer.contains("the server is overloaded"),
                "{answer}"
            );
            timed_out += usize::from(answer.starts_with("HTTP/1.1 408"));
        }
        if timed_out > 0 {
            assert!(begun.elapsed() >= Duration::from_millis(4900), "{:?}", begun.elapsed());
            break;
        }
    }
    let metrics = pod.admin().get("/metrics").await.text;
    let shed = metrics.lines().find_map(|line| line.strip_prefix("lockable_requests_shed_total "));
    assert!(shed.is_some_and(|shed| shed.parse::<u32>().unwrap() >= 1), "{shed:?}");
}
