//! Tests of the fault injection itself: the proxy injects the faults, and the checker finds
//! violations.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    Pod, eventually,
    history::{History, HoldPeriod, Violation},
    proxy::{NetworkFault, Proxy},
    redis::RedisServer,
    workload::{Workload, WorkloadConfig},
};

const PONG: &str = "+PONG\r\n";
/// The time without a response that proves that none comes.
const NO_RESPONSE_TIMEOUT: Duration = Duration::from_millis(300);
/// The timeout of an expected response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

async fn ping(stream: &mut TcpStream) -> Option<String> {
    ping_for(stream, RESPONSE_TIMEOUT).await
}

/// Sends a PING. Returns the reply, an empty text after the time limit, or `None` if the connection
/// ended.
async fn ping_for(stream: &mut TcpStream, limit: Duration) -> Option<String> {
    let mut answer = [0; PONG.len()];
    stream.write_all(b"PING\r\n").await.ok()?;
    match timeout(limit, stream.read_exact(&mut answer)).await {
        Ok(Ok(_)) => Some(String::from_utf8(answer.to_vec()).unwrap()),
        Ok(Err(_)) => None,
        Err(_) => Some(String::new()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_injects_every_network_fault_and_heals() {
    let redis = RedisServer::start();
    let proxy = Proxy::start(redis.port()).await;
    let connect = async || TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    let mut stream = connect().await;
    assert_eq!(ping(&mut stream).await.as_deref(), Some(PONG));

    proxy.delay(Duration::from_millis(100));
    let asked = Instant::now();
    assert_eq!(ping(&mut stream).await.as_deref(), Some(PONG));
    assert!(asked.elapsed() >= Duration::from_millis(100));
    proxy.pass();
    assert_eq!(ping(&mut stream).await.as_deref(), Some(PONG));

    let faults: [(&str, NetworkFault); 3] =
        [("black hole", Proxy::black_hole), ("drop", Proxy::drop_responses), ("half open", Proxy::half_open)];
    for (name, fault) in faults {
        let mut stream = connect().await;
        assert_eq!(ping(&mut stream).await.as_deref(), Some(PONG), "{name}");
        fault(&proxy);
        assert_eq!(ping_for(&mut stream, NO_RESPONSE_TIMEOUT).await.as_deref(), Some(""), "{name}");
        let mut new = connect().await;
        assert_eq!(ping_for(&mut new, NO_RESPONSE_TIMEOUT).await.as_deref(), Some(""), "{name}: a new connection");
        proxy.pass();
        // The proxy closes a connection that lost bytes.
        eventually(async || ping_for(&mut stream, NO_RESPONSE_TIMEOUT).await.is_none()).await;
        assert_eq!(ping(&mut connect().await).await.as_deref(), Some(PONG), "{name}");
    }

    proxy.refuse();
    eventually(async || ping_for(&mut stream, NO_RESPONSE_TIMEOUT).await.is_none()).await;
    assert_eq!(ping(&mut connect().await).await, None);
    proxy.pass();
    proxy.cut_after(3);
    let mut stream = connect().await;
    stream.write_all(b"PING\r\n").await.unwrap();
    let mut cut = String::new();
    let _ = stream.read_to_string(&mut cut).await;
    assert_eq!(cut, "+PO");
    assert_eq!(ping(&mut connect().await).await.as_deref(), Some(PONG));
}

fn period(holder: &str, fence: u64, start: Instant, [sent, from, until]: [u64; 3]) -> HoldPeriod {
    let at = |ms| start + Duration::from_millis(ms);
    HoldPeriod { name: "lock".into(), holder: holder.into(), fence, sent: at(sent), from: at(from), until: at(until) }
}

fn violations(periods: &[(&str, u64, [u64; 3])]) -> String {
    let (history, start) = (History::default(), Instant::now());
    for (holder, fence, times) in periods {
        history.add(period(holder, *fence, start, *times));
    }
    let letter = |violation: &Violation| match violation {
        Violation::Overlap(..) => 'o',
        Violation::DecreasingFence(..) => 'f',
    };
    history.check().iter().map(letter).collect()
}

#[test]
fn checker_finds_only_overlaps_and_decreasing_fences() {
    assert_eq!(violations(&[("ana", 1, [0, 1, 10]), ("bob", 2, [5, 10, 20])]), "", "one after the other");
    assert_eq!(violations(&[("ana", 1, [0, 1, 10]), ("bob", 2, [2, 9, 20])]), "o");
    assert_eq!(violations(&[("bob", 2, [2, 9, 20]), ("ana", 1, [0, 1, 30])]), "o", "in any order");
    assert_eq!(violations(&[("ana", 1, [0, 1, 10]), ("ana", 1, [2, 3, 20])]), "", "a repeated acquire");
    assert_eq!(violations(&[("ana", 2, [0, 1, 10]), ("bob", 1, [11, 12, 20])]), "f");
    assert_eq!(violations(&[("ana", 2, [0, 1, 10]), ("bob", 2, [11, 12, 20])]), "f");
    assert_eq!(violations(&[("ana", 2, [0, 1, 10]), ("ana", 1, [11, 12, 20])]), "f", "the same holder");
    assert_eq!(violations(&[("ana", 2, [0, 10, 20]), ("bob", 1, [0, 1, 5])]), "", "sent at the same time");
    assert_eq!(violations(&[("ana", 3, [0, 1, 10]), ("bob", 1, [20, 21, 30]), ("ana", 4, [25, 29, 40])]), "fo");
}

/// Two independent servers grant the same locks: a bug that the checker must find.
#[tokio::test(flavor = "multi_thread")]
async fn checker_catches_a_planted_bug_and_accepts_a_correct_server() {
    let (one, other) = (Pod::start().await, Pod::start().await);
    let clients = [one.client(&one.first_token()), other.client(&other.first_token())];
    let config =
        WorkloadConfig { holders: 10, names: 2, hold_max: Duration::from_millis(100), ..WorkloadConfig::default() };
    let mut bad = Workload::start(&clients, &config);
    eventually(async || bad.history.check().iter().any(|violation| matches!(violation, Violation::Overlap(..)))).await;
    bad.end().await;
    let good = Workload::start(&clients[..1], &WorkloadConfig { wait: Duration::from_secs(1), ..config });
    eventually(async || good.granted() >= 50).await;
    let tally = good.stop().await;
    assert_eq!((tally.unavailable, tally.failed, tally.recovering), (0, 0, 0), "{tally:?}");
}
