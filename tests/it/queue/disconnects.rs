//! Clients that disconnect, servers that stop, and long waits.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{SLACK, acquire, assert_granted, assert_refused, enqueue, release, waiting};
use crate::support::{Client, Cluster, Pod, eventually};

/// The time in which a waiter must claim the lock that was handed to it.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends requests on one raw connection, so that the test can cut it or pipeline requests.
async fn send_raw(pod: &Pod, client: &Client, paths: &[&str]) -> TcpStream {
    let mut stream = TcpStream::connect(pod.authority("127.0.0.1")).await.unwrap();
    let authorization = client.authorization();
    let requests: String = paths
        .iter()
        .map(|path| format!("GET {path} HTTP/1.1\r\nHost: test\r\nAuthorization: {authorization}\r\n\r\n"))
        .collect();
    stream.write_all(requests.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnected_client_leaves_the_queue_at_once() {
    let cluster = Cluster::start(1).await;
    let pod = &cluster.pods[0];
    let client = pod.client(&cluster.account("business").await.token);
    for behind in [&[][..], &["/v1/account"], &["/v1/account", "/v1/acquire/other"]] {
        assert_granted(&acquire(&client, "gone").await);
        let paths = [&["/v1/acquire/gone?wait=50s"], behind].concat();
        let stream = send_raw(pod, &client, &paths).await;
        eventually(async || waiting(&client, "gone").await == 1).await;
        drop(stream);
        let hung_up = Instant::now();
        eventually(async || waiting(&client, "gone").await == 0).await;
        assert!(hung_up.elapsed() < SLACK, "{:?}", hung_up.elapsed());
        release(&client, "gone").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grant_to_disconnected_client_is_released_within_the_claim_timeout() {
    let cluster = Cluster::start(1).await;
    let pod = &cluster.pods[0];
    cluster.operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let client = pod.client(&cluster.account("business").await.token);
    // The machine decides the outcome of the race; repeat it until enough grants had to be
    // reverted.
    let (mut freed, mut round) = (0, 0_u64);
    while freed < 10 {
        round += 1;
        assert!(round <= 1_000, "only {freed} of {round} grants were reverted");
        let name = format!("race-{round}");
        let path = format!("/v1/acquire/{name}?wait=50s");
        assert_granted(&acquire(&client, &name).await);
        let behind: &[&str] = if round % 2 == 0 { &[] } else { &["/v1/account"] };
        let mut streams = Vec::new();
        for number in 0..2 {
            streams.push(send_raw(pod, &client, &[&[path.as_str()], behind].concat()).await);
            eventually(async || waiting(&client, &name).await == number + 1).await;
        }
        // Both clients disconnect while the lock is being handed over to the first one.
        let releasing = {
            let (client, path) = (client.clone(), format!("/v1/release/{name}"));
            tokio::spawn(async move { client.get(&path).await })
        };
        tokio::time::sleep(Duration::from_micros(50 * (round % 40))).await;
        let ends = streams.into_iter().map(end);
        let answers = futures_util::future::join_all(ends).await;
        assert_granted(&releasing.await.unwrap());
        // A client that received the response holds the lock, whatever happens to its connection.
        if answers.iter().any(|answer| answer.contains("\"response\":true")) {
            continue;
        }
        freed += 1;
        let hung_up = Instant::now();
        eventually(async || client.get(&format!("/v1/locks/{name}")).await.json["held"] == false).await;
        assert!(hung_up.elapsed() < CLAIM_TIMEOUT + SLACK, "round {round}: {:?}", hung_up.elapsed());
    }
}

/// Closes the sending side, as a disconnecting client does. Returns what the server sent until it
/// closed, too.
async fn end(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let _ = stream.shutdown().await;
    let _ = stream.read_to_string(&mut text).await;
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_server_answers_every_waiter_at_once() {
    let mut cluster = Cluster::start(2).await;
    let account = cluster.account("business").await;
    let [staying, leaving] = [0, 1].map(|pod| cluster.pods[pod].client(&account.token));
    assert_granted(&acquire(&staying, "drain").await);
    let first = enqueue(&leaving, "drain", "owner=ana").await;
    let second = enqueue(&leaving, "drain", "").await;
    let third = enqueue(&staying, "drain", "").await;

    let asked = Instant::now();
    cluster.pods[1].terminate();
    for waiter in [first, second] {
        let answer = waiter.await.unwrap();
        assert_refused(&answer, "draining");
        assert_eq!(answer.header("retry-after"), Some("0"));
        assert_eq!(answer.json["retry_after_ms"], 0);
    }
    assert_eq!(cluster.pods[1].stop().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());

    // Ana asks the other server and keeps her position before the third.
    let again = {
        let staying = staying.clone();
        tokio::spawn(async move { staying.get("/v1/acquire/drain?owner=ana&wait=50s").await })
    };
    eventually(async || staying.get("/v1/account").await.json["requests_waiting"] == 2).await;
    release(&staying, "drain").await;
    assert_granted(&again.await.unwrap());
    assert_eq!(staying.get("/v1/release/drain?owner=ana").await.json["response"], true);
    assert_granted(&third.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_extends_the_request_timeout() {
    let pod = Pod::builder().env("LOCKABLE_REQUEST_TIMEOUT", "300ms").start().await;
    let client = pod.client(&pod.first_token());
    assert_granted(&acquire(&client, "long").await);
    let mut stream = send_raw(&pod, &client, &["/v1/acquire/long?wait=1s"]).await;
    let mut text = vec![0; 4096];
    let asked = Instant::now();
    let count = stream.read(&mut text).await.unwrap();
    let text = String::from_utf8_lossy(&text[..count]);
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("timed_out"), "{text}");
    assert!(asked.elapsed() >= Duration::from_secs(1));
}
