//! The project's `HAProxy` configuration, run by a real `HAProxy`: the headers it sends to servers,
//! its log, and its timeouts. Also the confinement of services in `docker-compose.yml`.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use uuid::Uuid;

use crate::support::{
    Client, Pod,
    balancer::{Backend, Balancer},
    eventually,
    page::PageClient,
    process::free_port,
};

/// Starts a server that trusts its balancer, and that balancer.
async fn start(changes: &[(&str, &str)]) -> (Pod, Balancer) {
    let backend = Backend { api: free_port(), admin: free_port() };
    let pod = Pod::builder()
        .env("LOCKABLE_LISTEN", &format!("127.0.0.1:{}", backend.api))
        .env("LOCKABLE_ADMIN_LISTEN", &format!("127.0.0.1:{}", backend.admin))
        // The worst case: clients are in the trusted network of the balancer.
        .env("LOCKABLE_TRUSTED_PROXIES", "127.0.0.0/8")
        .start()
        .await;
    let balancer = Balancer::start(&[backend], changes);
    let client = Client::new(&balancer.origin(), None);
    eventually(async || client.try_get("/openapi.json").await.is_some_and(|answer| answer.status == 200)).await;
    (pod, balancer)
}

#[tokio::test(flavor = "multi_thread")]
async fn client_headers_do_not_set_the_client_address() {
    let (_pod, balancer) = start(&[]).await;
    // More requests than one address may fail in total during this test.
    let mut statuses = Vec::new();
    for number in 0..250 {
        let stranger = Client::new(&balancer.origin(), Some(&Uuid::new_v4().to_string()));
        let fields = [("X-Forwarded-For", &*format!("192.0.2.{number}")), ("X-Forwarded-Proto", "https")];
        statuses.push(stranger.request("GET", "/v1/acquire/x", &fields).await.status);
        if statuses.ends_with(&[429]) {
            break;
        }
    }
    assert!(statuses.ends_with(&[429]) && statuses.starts_with(&[401]), "{statuses:?}");
    let mut browser = PageClient::new(&balancer.origin()).with_field("x-forwarded-proto", "https");
    let page = browser.get("/").await;
    assert_eq!(page.header("strict-transport-security"), None, "the header of the client was ignored");
}

#[tokio::test(flavor = "multi_thread")]
async fn balancer_log_contains_no_link_token_or_name() {
    let (pod, balancer) = start(&[]).await;
    let text = pod.first_account();
    let link = text.lines().find_map(|line| line.trim().rsplit_once("/account/link/")).unwrap().1.to_owned();
    let (token, wrong) = (pod.first_token(), Uuid::new_v4().to_string());
    let client = Client::new(&balancer.origin(), Some(&token));
    let mut browser = PageClient::new(&balancer.origin());
    for path in [
        format!("/account/link/{link}"),
        format!("//account/link/{link}"),
        format!("/account//link/{link}"),
        format!("/%61ccount/link/{link}"),
        format!("/account/link/{link}?again"),
    ] {
        browser.get(&path).await;
    }
    let raw = format!("{}/account/link/{link}", balancer.origin());
    client.get_raw(&raw).await;
    client.get("/v1/acquire/name-of-a-lock?owner=name-of-an-owner&note=text-of-a-note").await;
    client.get(&format!("/v1/acquire/x?token={wrong}")).await;
    eventually(async || balancer.log().contains("\"GET v1/acquire HTTP/1.1\"")).await;
    eventually(async || balancer.log().matches("account/link HTTP/1.1").count() >= 3).await;
    let log = balancer.log();
    for secret in [&link, &token, &wrong, "name-of-a-lock", "name-of-an-owner", "text-of-a-note"] {
        assert!(!log.contains(secret), "{secret} is in {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_request_head_times_out() {
    // A tenth of the real timeout keeps the test fast.
    let (_pod, balancer) = start(&[("timeout http-request 10s", "timeout http-request 1s")]).await;
    let mut stream = TcpStream::connect(("127.0.0.1", balancer.port())).await.unwrap();
    let begun = Instant::now();
    let mut answer = Vec::new();
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: {}", "x".repeat(1000));
    for byte in head.bytes() {
        assert!(begun.elapsed() < Duration::from_secs(8), "the connection is open after {:?}", begun.elapsed());
        let is_sent = stream.write_all(&[byte]).await.is_ok();
        let read = timeout(Duration::from_millis(100), stream.read_buf(&mut answer)).await;
        if !is_sent || matches!(read, Ok(Ok(0) | Err(_))) {
            break;
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
}

/// Each service has only the privileges that it needs.
#[test]
fn compose_services_are_confined_and_have_no_password_in_the_file() {
    let file = include_str!("../../docker-compose.yml");
    let services = file.split("\nservices:").nth(1).unwrap().split("\nnetworks:\n").next().unwrap();
    let mut services: Vec<_> = services.split("\n  ").filter(|line| !line.starts_with([' ', '#'])).collect();
    services.retain(|name| !name.is_empty());
    for name in &mut services {
        *name = name.trim().trim_end_matches(':');
    }
    assert_eq!(services, ["lockable", "migrate", "balancer", "redis", "postgres"]);
    // The servers inherit these restrictions from their common part.
    assert_eq!(file.matches("<<: *confined").count(), 4);
    assert_eq!(file.matches("<<: *server").count(), 2);
    assert_eq!(file.matches("limits: {cpus: \"1\", memory: ").count(), services.len());
    assert_eq!(file.matches(", pids: ").count(), services.len());
    for line in ["  read_only: true", "  cap_drop: [ALL]", "  security_opt: [\"no-new-privileges:true\"]"] {
        assert!(file.lines().any(|other| other == line), "{line}");
    }
    let balancer = file.split("ipv4_address: ").nth(1).unwrap().split('}').next().unwrap();
    assert!(file.contains(&format!("LOCKABLE_TRUSTED_PROXIES: {balancer}/32\n")), "{balancer}");
    assert!(!file.contains("lockable-try-it") && !file.contains("requirepass"), "the file contains a password");
}
