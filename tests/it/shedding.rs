//! Too much at once: what is refused, and what is not.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::support::{Pod, eventually};

/// A request whose body does not come.
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
async fn too_much_at_once_is_refused_but_for_heartbeats_and_releases() {
    let pod = Pod::builder().env("LOCKABLE_REQUESTS", "1").env("LOCKABLE_ADMIN_LISTEN", "127.0.0.1:0").start().await;
    let token = pod.first_token();
    let client = pod.client(&token);
    assert_eq!(client.get("/v1/acquire/mine").await.json["response"], true);
    // Who waits for a lock is not worked on.
    let waiter = {
        let client = client.clone();
        tokio::spawn(async move {
            loop {
                let answer = client.get("/v1/acquire/mine?owner=waiter&wait=30s").await;
                // The one who looks whether it waits may have been in its place.
                if answer.status != 503 {
                    return answer;
                }
            }
        })
    };
    eventually(async || client.get("/v1/locks/mine").await.json["waiting"] == 1).await;

    let (begun, mut slow) = loop {
        let (begun, slow) = (Instant::now(), begin_slowly(&pod, &token).await);
        sleep(Duration::from_millis(50)).await;
        let is_refused = client.get("/v1/acquire/other?owner=probe").await.status == 503;
        // It may have been refused itself, while the one before it was in its place.
        let is_answered = slow.try_read(&mut [0]).is_ok();
        if is_refused && !is_answered {
            break (begun, slow);
        }
    };
    let refused = client.get("/v1/acquire/other?owner=probe").await;
    assert_eq!((refused.status, refused.json["type"].as_str()), (503, Some("/problems/unavailable")));
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(client.get("/v1/heartbeat/mine").await.json["response"], true);
    assert_eq!(client.get("/v1/release/mine").await.json["response"], true);
    assert_eq!(waiter.await.unwrap().json["response"], true);

    // The body has its time, and no more; then there is room again.
    let mut answer = String::new();
    let _ = timeout(Duration::from_secs(20), slow.read_to_string(&mut answer)).await.expect("the slow one is answered");
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("/problems/body-too-slow"), "{answer}");
    assert!(begun.elapsed() >= Duration::from_millis(4900), "{:?}", begun.elapsed());
    assert_eq!(client.get("/v1/acquire/other?owner=probe").await.json["response"], true);
    let metrics = pod.admin().get("/metrics").await.text;
    let shed = metrics.lines().find_map(|line| line.strip_prefix("lockable_requests_shed_total "));
    assert!(shed.is_some_and(|shed| shed.parse::<u32>().unwrap() >= 2), "{shed:?}");
}
