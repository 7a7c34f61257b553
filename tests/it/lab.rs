//! The laboratory in which faults are tried: that it breaks what it says, and
//! sees what must not be.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    Pod, eventually,
    history::{History, Stint, Violation},
    holders::{Holders, Wanted},
    proxy::{Break, Proxy},
    redis::RedisServer,
};

const PONG: &str = "+PONG\r\n";
/// How long there must be no answer where none is to come.
const SILENCE: Duration = Duration::from_millis(300);
/// How long an answer may take that is to come.
const PATIENCE: Duration = Duration::from_secs(20);

async fn ping(stream: &mut TcpStream) -> Option<String> {
    ping_for(stream, PATIENCE).await
}

/// Sends a ping; what came of it in that time: an answer, nothing, or the end.
async fn ping_for(stream: &mut TcpStream, patience: Duration) -> Option<String> {
    let mut answer = [0; PONG.len()];
    stream.write_all(b"PING\r\n").await.ok()?;
    match timeout(patience, stream.read_exact(&mut answer)).await {
        Ok(Ok(_)) => Some(String::from_utf8(answer.to_vec()).unwrap()),
        Ok(Err(_)) => None,
        Err(_) => Some(String::new()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_breaks_a_network_in_every_way_and_heals_it() {
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

    let breaks: [(&str, Break); 3] =
        [("black hole", Proxy::black_hole), ("drop", Proxy::drop_answers), ("half open", Proxy::half_open)];
    for (name, how) in breaks {
        let mut stream = connect().await;
        assert_eq!(ping(&mut stream).await.as_deref(), Some(PONG), "{name}");
        how(&proxy);
        assert_eq!(ping_for(&mut stream, SILENCE).await.as_deref(), Some(""), "{name}");
        let mut new = connect().await;
        assert_eq!(ping_for(&mut new, SILENCE).await.as_deref(), Some(""), "{name}: a new connection");
        proxy.pass();
        // What has lost bytes is no stream any more.
        eventually(async || ping_for(&mut stream, SILENCE).await.is_none()).await;
        assert_eq!(ping(&mut connect().await).await.as_deref(), Some(PONG), "{name}");
    }

    proxy.refuse();
    eventually(async || ping_for(&mut stream, SILENCE).await.is_none()).await;
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

fn stint(holder: &str, fence: u64, start: Instant, [asked, from, until]: [u64; 3]) -> Stint {
    let at = |ms| start + Duration::from_millis(ms);
    Stint { name: "lock".into(), holder: holder.into(), fence, asked: at(asked), from: at(from), until: at(until) }
}

fn found(stints: &[(&str, u64, [u64; 3])]) -> String {
    let (history, start) = (History::default(), Instant::now());
    for (holder, fence, times) in stints {
        history.add(stint(holder, *fence, start, *times));
    }
    let word = |violation: &Violation| match violation {
        Violation::Overlap(..) => 'o',
        Violation::FallingFence(..) => 'f',
    };
    history.check().iter().map(word).collect()
}

#[test]
fn the_checker_finds_overlap_and_falling_fences_and_nothing_else() {
    assert_eq!(found(&[("ana", 1, [0, 1, 10]), ("bob", 2, [5, 10, 20])]), "", "one after the other");
    assert_eq!(found(&[("ana", 1, [0, 1, 10]), ("bob", 2, [2, 9, 20])]), "o");
    assert_eq!(found(&[("bob", 2, [2, 9, 20]), ("ana", 1, [0, 1, 30])]), "o", "in whatever order");
    assert_eq!(found(&[("ana", 1, [0, 1, 10]), ("ana", 1, [2, 3, 20])]), "", "asked for again");
    assert_eq!(found(&[("ana", 2, [0, 1, 10]), ("bob", 1, [11, 12, 20])]), "f");
    assert_eq!(found(&[("ana", 2, [0, 1, 10]), ("bob", 2, [11, 12, 20])]), "f");
    assert_eq!(found(&[("ana", 2, [0, 1, 10]), ("ana", 1, [11, 12, 20])]), "f", "the same holder");
    assert_eq!(found(&[("ana", 2, [0, 10, 20]), ("bob", 1, [0, 1, 5])]), "", "asked for at the same time");
    assert_eq!(found(&[("ana", 3, [0, 1, 10]), ("bob", 1, [20, 21, 30]), ("ana", 4, [25, 29, 40])]), "fo");
}

/// Two servers that do not know of each other grant the same locks: a bug that
/// must be seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_planted_bug_is_caught_and_a_sound_server_is_not_blamed() {
    let (one, other) = (Pod::start().await, Pod::start().await);
    let clients = [one.client(&one.first_token()), other.client(&other.first_token())];
    let wanted = Wanted { holders: 10, names: 2, kept: Duration::from_millis(100), ..Wanted::default() };
    let mut bad = Holders::start(&clients, &wanted);
    eventually(async || bad.history.check().iter().any(|violation| matches!(violation, Violation::Overlap(..)))).await;
    bad.end().await;
    let good = Holders::start(&clients[..1], &Wanted { wait: Duration::from_secs(1), ..wanted });
    eventually(async || good.granted() >= 50).await;
    let tally = good.stop().await;
    assert_eq!((tally.unavailable, tally.failed, tally.recovering), (0, 0, 0), "{tally:?}");
}
