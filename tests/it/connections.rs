//! The accept loop with a test router: limits, timeouts, drain.

use std::{net::SocketAddr, time::Duration};

use axum::{Extension, Router, routing::get};
use clap::Parser;
use lockable::{
    config::ListenSettings,
    http::Connection,
    server::{HEAD_BYTES_MAX, Workers, serve},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::support::{Cluster, Pod, eventually};

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    listen: ListenSettings,
}

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(flags: &[&str]) -> Self {
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/peer", get(|Extension(client): Extension<Connection>| async move { client.peer().to_string() }))
            .route("/slow", get(|| async { sleep(Duration::from_millis(500)).await }))
            .route("/hang", get(std::future::pending::<()>));
        let settings = Settings::parse_from([&["test"], flags].concat()).listen;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { serve(listener, router, &Workers::here(), &settings, None, shutdown).await }
        });
        Self { address, shutdown, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

async fn send(stream: &mut TcpStream, paths: &[&str]) {
    let requests: String = paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).collect();
    stream.write_all(requests.as_bytes()).await.unwrap();
}

/// Reads until `end` was received or the stream was closed.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.ends_with(end) {
        match timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.expect("the server sends nothing") {
            Ok(0) | Err(_) => break,
            Ok(count) => text.push_str(std::str::from_utf8(&buffer[..count]).unwrap()),
        }
    }
    text
}

#[tokio::test]
async fn pipelined_requests_are_all_answered_with_their_peer_address() {
    let server = Server::start(&[]).await;
    let mut stream = server.connect().await;
    let peer = stream.local_addr().unwrap().to_string();
    send(&mut stream, &["/", "/peer", "/", "/peer"]).await;
    let mut answers = String::new();
    while answers.matches("200 OK").count() < 4 {
        answers += &read_until(&mut stream, &peer).await;
    }
    assert_eq!((answers.matches("hello").count(), answers.matches(&peer).count()), (2, 2), "{answers}");
}

#[tokio::test]
async fn oversized_request_head_returns_431() {
    let server = Server::start(&[]).await;
    for (bytes, expected) in [(HEAD_BYTES_MAX - 1000, "HTTP/1.1 200"), (HEAD_BYTES_MAX + 1000, "HTTP/1.1 431")] {
        let mut stream = server.connect().await;
        let head = format!("GET / HTTP/1.1\r\nHost: test\r\nX-Long: {}\r\n\r\n", "x".repeat(bytes));
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "hello").await;
        assert!(answer.starts_with(expected), "{bytes}: {answer}");
    }
}

#[tokio::test]
async fn silent_and_slow_clients_are_disconnected_in_time() {
    let server = Server::start(&["--header-timeout", "300ms"]).await;
    for begun in ["", "GET / HTTP/1.1\r\nHost:"] {
        let mut stream = server.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let asked = Instant::now();
        assert_eq!(read_until(&mut stream, "hello").await, "");
        assert!(asked.elapsed() < Duration::from_secs(2), "{begun:?} took {:?}", asked.elapsed());
    }
    let mut stream = server.connect().await;
    for _ in 0..2 {
        send(&mut stream, &["/"]).await;
        assert!(read_until(&mut stream, "hello").await.ends_with("hello"));
        // An idle keep-alive connection must survive the header timeout.
        sleep(Duration::from_millis(600)).await;
    }
}

#[tokio::test]
async fn connections_over_the_limit_wait_while_all_others_are_busy() {
    let server = Server::start(&["--connections", "1", "--header-timeout", "300ms"]).await;
    let mut first = server.connect().await;
    send(&mut first, &["/hang"]).await;

    let mut second = server.connect().await;
    send(&mut second, &["/"]).await;
    let early = timeout(Duration::from_millis(300), second.readable()).await;
    assert!(early.is_err(), "a connection beyond the limit was served");
    drop(first);
    assert!(read_until(&mut second, "hello").await.ends_with("hello"));
}

/// Regression: idle connections used the whole limit, and a new one was served after 74 s.
#[tokio::test]
async fn oldest_idle_connection_is_closed_for_a_new_one() {
    let server = Server::start(&["--connections", "3"]).await;
    let mut idle = Vec::new();
    for sent in [&["/"][..], &[], &["/"]] {
        let mut stream = server.connect().await;
        send(&mut stream, sent).await;
        if !sent.is_empty() {
            assert!(read_until(&mut stream, "hello").await.ends_with("hello"));
        }
        idle.push(stream);
    }
    for _ in 0..2 {
        let mut stream = server.connect().await;
        send(&mut stream, &["/"]).await;
        assert!(read_until(&mut stream, "hello").await.ends_with("hello"), "the new connection was not served at once");
        idle.push(stream);
        assert_eq!(read_until(&mut idle.remove(0), "-").await, "", "the oldest connection is still open");
    }
    for mut stream in idle {
        send(&mut stream, &["/"]).await;
        assert!(
            read_until(&mut stream, "hello").await.ends_with("hello"),
            "a connection other than the oldest was closed"
        );
    }
}

#[tokio::test]
async fn half_closed_client_gets_all_answers() {
    let server = Server::start(&["--header-timeout", "2s"]).await;
    for (paths, expected) in [(&["/slow"][..], 1), (&["/"], 1), (&["/", "/slow", "/"], 3), (&["/slow", "/hang"], 1)] {
        let mut stream = server.connect().await;
        send(&mut stream, paths).await;
        stream.shutdown().await.unwrap();
        let answers = read_until(&mut stream, "-").await;
        assert_eq!(answers.matches("HTTP/1.1 200").count(), expected, "{paths:?}: {answers}");
    }
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_until(&mut stream, "-").await;
    assert!(!answer.contains("200 OK"), "half a head is no request: {answer}");
}

/// Opens a connection and sends a request on it, with a token or without one.
async fn used_connection(pod: &Pod, authorization: Option<&str>) -> TcpStream {
    let mut stream = TcpStream::connect(pod.authority("127.0.0.1")).await.unwrap();
    assert!(is_served(&mut stream, authorization).await);
    stream
}

/// Returns whether the server answers a heartbeat on this connection.
async fn is_served(stream: &mut TcpStream, authorization: Option<&str>) -> bool {
    let field = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
    let head = format!("GET /v1/heartbeat/any HTTP/1.1\r\nHost: test\r\n{field}\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    read_until(stream, "}").await.starts_with("HTTP/1.1")
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_evicted_by_missing_token_then_by_least_recent_use() {
    let pod = Pod::builder().env("LOCKABLE_CONNECTIONS", "6").env("LOCKABLE_WAITERS", "2").start().await;
    let token = pod.client(&pod.first_token()).authorization();
    let token = Some(token.as_str());
    let mut holders = Vec::new();
    for _ in 0..2 {
        holders.push(used_connection(&pod, token).await);
    }
    // Far more connections than the limit, of each kind that costs a client nothing.
    let mut unauthenticated = Vec::new();
    for number in 0..30 {
        let mut stream = TcpStream::connect(pod.authority("127.0.0.1")).await.unwrap();
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap(),
            _ => assert!(is_served(&mut stream, None).await, "401"),
        }
        unauthenticated.push(stream);
    }
    for holder in &mut holders {
        assert!(is_served(holder, token).await, "an unauthenticated connection evicted an authenticated one");
    }
    // More authenticated connections than the limit: each new one is served at once, and evicts the
    // one whose token was used least recently.
    for number in 0..8 {
        let asked = Instant::now();
        holders.push(used_connection(&pod, token).await);
        assert!(asked.elapsed() < Duration::from_secs(5), "number {number} took {:?}", asked.elapsed());
    }
    for (number, holder) in holders.iter_mut().enumerate() {
        assert_eq!(is_served(holder, token).await, number >= 4, "connection {number} of ten with a limit of six");
    }
    let metrics = pod.admin().get("/metrics").await.text;
    let evicted = metrics.lines().find_map(|line| line.strip_prefix("lockable_connections_evicted_total "));
    assert!(evicted.is_some_and(|evicted| evicted.parse::<u32>().unwrap() >= 30), "{evicted:?}");
}

/// Regression: with 64 idle connections of one peer, probes got no response.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_block_probes() {
    let pod = Pod::start().await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(pod.admin_address()).await.unwrap());
    }
    let live = timeout(Duration::from_secs(5), pod.admin().get("/livez")).await.expect("the probe got no response");
    assert_eq!(live.status, 200);
}

#[tokio::test]
async fn connections_per_address_are_limited_except_for_trusted_proxies() {
    let share = ["--connections-per-address", "2"];
    let server = Server::start(&share).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        send(&mut stream, &["/"]).await;
        assert!(read_until(&mut stream, "hello").await.ends_with("hello"));
        open.push(stream);
    }
    assert_eq!(read_until(&mut server.connect().await, "hello").await, "", "a third connection of one address");
    open.pop();
    eventually(async || {
        let mut stream = server.connect().await;
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        read_until(&mut stream, "hello").await.ends_with("hello")
    })
    .await;

    let trusting = Server::start(&[&share[..], &["--trusted-proxies", "127.0.0.0/8"]].concat()).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut stream = trusting.connect().await;
        send(&mut stream, &["/"]).await;
        assert!(read_until(&mut stream, "hello").await.ends_with("hello"));
        open.push(stream);
    }
}

/// Returns a header of the PROXY protocol, version 2, for a TCP connection over IPv4.
fn proxy_header(command: u8, client: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, 12]);
    header.extend(client);
    header.extend([192, 0, 2, 1]);
    header.extend(port.to_be_bytes());
    header.extend(443_u16.to_be_bytes());
    header
}

#[tokio::test]
async fn trusted_balancer_sets_the_client_address_by_proxy_protocol() {
    let flags = ["--proxy-protocol", "true", "--connections-per-address", "1", "--header-timeout", "300ms"];
    let trusting = Server::start(&[&flags[..], &["--trusted-proxies", "127.0.0.0/8"]].concat()).await;
    let ask = async |head: &[u8]| {
        let mut stream = trusting.connect().await;
        stream.write_all(head).await.unwrap();
        let _ = stream.write_all(b"GET /peer HTTP/1.1\r\nHost: test\r\n\r\n").await;
        let answer = timeout(Duration::from_secs(5), async { read_until(&mut stream, "4711").await }).await;
        (stream, answer.unwrap_or_default())
    };
    let (open, answer) = ask(&proxy_header(1, [198, 51, 100, 7], 4711)).await;
    assert!(answer.ends_with("198.51.100.7:4711"), "{answer}");
    // The limit per address counts the client's address, not the balancer's.
    assert_eq!(ask(&proxy_header(1, [198, 51, 100, 7], 4711)).await.1, "");
    assert!(ask(&proxy_header(1, [198, 51, 100, 8], 4711)).await.1.ends_with("198.51.100.8:4711"));
    drop(open);
    // A LOCAL connection, such as a health check, has the balancer's own address.
    let mut own = trusting.connect().await;
    own.write_all(&proxy_header(0, [0; 4], 0)).await.unwrap();
    let peer = own.local_addr().unwrap().to_string();
    send(&mut own, &["/peer"]).await;
    assert!(read_until(&mut own, &peer).await.ends_with(&peer));
    // A missing, a version 1 or an oversized header closes the connection without a response.
    let mut too_long = proxy_header(1, [198, 51, 100, 9], 4711);
    too_long[14..16].copy_from_slice(&[0xff, 0xff]);
    for head in [&b""[..], b"PROXY TCP4 198.51.100.9 192.0.2.1 4711 443\r\n", &too_long] {
        assert_eq!(ask(head).await.1, "", "{head:?}");
    }
    let asked = Instant::now();
    assert_eq!(read_until(&mut trusting.connect().await, "hello").await, "");
    assert!(asked.elapsed() < Duration::from_secs(2), "a silent balancer took {:?}", asked.elapsed());

    // Peers that are not trusted cannot send the header.
    let server = Server::start(&flags).await;
    let mut stream = server.connect().await;
    stream.write_all(&proxy_header(1, [198, 51, 100, 7], 4711)).await.unwrap();
    send(&mut stream, &["/peer"]).await;
    assert!(!read_until(&mut stream, "4711").await.contains("198.51.100.7"));
    let mut stream = server.connect().await;
    let peer = stream.local_addr().unwrap().to_string();
    send(&mut stream, &["/peer"]).await;
    assert!(read_until(&mut stream, &peer).await.ends_with(&peer));
}

#[tokio::test]
async fn drain_finishes_requests_and_closes_idle_connections() {
    let server = Server::start(&["--drain-timeout", "5s"]).await;
    let (mut idle, mut busy) = (server.connect().await, server.connect().await);
    send(&mut idle, &["/"]).await;
    read_until(&mut idle, "hello").await;
    send(&mut busy, &["/slow"]).await;
    sleep(Duration::from_millis(100)).await;

    server.shutdown.cancel();
    assert_eq!(read_until(&mut idle, "hello").await, "");
    let refused = async { while TcpStream::connect(server.address).await.is_ok() {} };
    timeout(Duration::from_millis(300), refused).await.expect("new connections are still accepted");
    let answer = read_until(&mut busy, "-").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    timeout(Duration::from_secs(1), server.serving).await.expect("the drain does not end").unwrap();
}

#[tokio::test]
async fn drain_closes_connections_after_its_timeout() {
    let server = Server::start(&["--drain-timeout", "300ms"]).await;
    let mut stream = server.connect().await;
    send(&mut stream, &["/hang"]).await;
    sleep(Duration::from_millis(100)).await;
    let begin = Instant::now();
    server.shutdown.cancel();
    server.serving.await.unwrap();
    assert!((200..2000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    assert_eq!(read_until(&mut stream, "-").await, "");
}

/// Sends a request, closes the sending side, and returns the answer.
async fn ask_half_closed(pod: &Pod, authorization: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(pod.authority("127.0.0.1")).await.unwrap();
    let request = request.replacen("\r\n", &format!("\r\nHost: test\r\nAuthorization: {authorization}\r\n"), 1);
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    read_until(&mut stream, "the end of the stream").await
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_client_acquires_renews_and_releases() {
    let (cluster, embedded) = (Cluster::start(1).await, Pod::start().await);
    let token = cluster.account("business").await.token;
    for (pod, client) in
        [(&cluster.pods[0], cluster.pods[0].client(&token)), (&embedded, embedded.client(&embedded.first_token()))]
    {
        let ask = async |request: String| ask_half_closed(pod, &client.authorization(), &request).await;
        for round in 0..5 {
            let name = format!("half-{round}");
            let wait = if round % 2 == 0 { "" } else { "&wait=30s" };
            let version = if round < 3 { "HTTP/1.1" } else { "HTTP/1.0" };
            let granted = ask(format!("GET /v1/acquire/{name}?lease=1m{wait} {version}\r\n\r\n")).await;
            assert!(granted.contains("200 OK") && granted.contains(r#""response":true"#), "{granted}");
            for operation in ["heartbeat", "release"] {
                assert_eq!(client.get(&format!("/v1/locks/{name}")).await.json["held"], true, "before {operation}");
                let answer = ask(format!("GET /v1/{operation}/{name} {version}\r\n\r\n")).await;
                assert!(answer.contains("200 OK") && answer.contains(r#""response":true"#), "{answer}");
            }
            assert_eq!(client.get(&format!("/v1/locks/{name}")).await.json["held"], false);
        }
        for path in ["/v1/locks", "/v1/locks/half", "/v1/account", "/docs"] {
            let answer = ask(format!("GET {path} HTTP/1.1\r\n\r\n")).await;
            assert!(answer.contains("200 OK"), "{path}: {answer}");
        }
        let posted = ask("POST /v1/acquire/cut HTTP/1.1\r\nContent-Length: 20\r\n\r\nlease=1m".to_owned()).await;
        assert!(!posted.contains("200 OK"), "half a body is no request: {posted}");
        assert_eq!(client.get("/v1/locks/cut").await.json["held"], false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_client_cannot_wait_in_a_queue() {
    let pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    assert_eq!(client.get("/v1/acquire/held").await.json["response"], true);
    let answer = ask_half_closed(&pod, &client.authorization(), "GET /v1/acquire/held?wait=50s HTTP/1.1\r\n\r\n").await;
    assert!(answer.contains("408 Request Timeout") && answer.contains("/problems/client-gone"), "{answer}");
    eventually(async || client.get("/v1/locks/held").await.json["waiting"] == 0).await;
}

#[tokio::test]
async fn stopped_server_exits_with_zero() {
    let mut pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    assert_eq!(client.get("/v1/acquire/stop").await.status, 200);
    assert_eq!(pod.stop().await, Some(0), "{}", pod.log());
}
