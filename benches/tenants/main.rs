//! One account attacks while another one sends heartbeats: measures the response times and failures
//! of the heartbeats, and the memory of the server and of Redis.
//!
//! `cargo bench --bench tenants [SECONDS] [ATTACK...]`: seconds per trial and names of attacks. The
//! attacks come from a process of the lowest priority, because a client on the same machine must
//! not take the processor from the server, as a remote client could not.

#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "an interactive program that panics on errors"
)]

mod attack;
mod browser;
#[path = "../common/mod.rs"]
mod common;

use std::{
    process::Child,
    time::{Duration, Instant},
};

use attack::{Attack, AttackKind, Attacker};
use base64::{Engine, engine::general_purpose::STANDARD};
use common::{Servers, cpu, figures, memory_kib};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

/// The locks of the quiet account, the interval of their heartbeats, and the time of heartbeats
/// before the attack.
const HOLDERS: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_secs(10);

fn main() {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        match Attack::from_arguments() {
            Some(attack) => attack.run().await,
            None => measure().await,
        }
    });
}

async fn measure() {
    let arguments: Vec<String> = std::env::args().collect();
    let seconds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(60);
    let chosen = |kind: &AttackKind| {
        let names: Vec<_> =
            arguments[1..].iter().filter(|argument| AttackKind::from_name(argument).is_some()).collect();
        names.is_empty() || names.iter().any(|name| AttackKind::from_name(name) == Some(*kind))
    };
    for store in ["Redis", "the process"] {
        for kind in AttackKind::ALL.into_iter().filter(chosen) {
            let servers = match store {
                "Redis" => Servers::start(1, &[("LOCKABLE_CONNECTIONS", "4000"), ("LOCKABLE_WAITERS", "3000")]),
                _ => Servers::start_embedded(),
            };
            // The default plan, instead of the larger one of other benchmarks.
            servers.operator(&["plan", "set", "business", "--rate", "1000", "--burst", "2000"]);
            servers.operator(&["plan", "set", "business", "--locks", "100000", "--waiters", "10000"]);
            trial(store, kind, &servers, Duration::from_secs(seconds)).await;
        }
    }
}

async fn trial(store: &str, kind: AttackKind, servers: &Servers, length: Duration) {
    let (address, token) = (&servers.addresses[0], servers.account("quiet@example.com"));
    for holder in 0..HOLDERS {
        // A server may not have reached its store yet after the start.
        let begun = Instant::now();
        while !ask(address, &token, &format!("/v1/acquire/held-{holder}?owner=quiet"), "").await {
            assert!(begun.elapsed() < Duration::from_secs(10), "no lock for the quiet account");
            sleep(PAUSE).await;
        }
    }
    let quiet = beats(address, &token, QUIET).await;
    let before = [memory_kib(&servers.pods[0]), redis_kib(servers.redis.as_ref())];
    let used = cpu(&servers.pods[0]);
    let attacker = Attacker::start(kind, servers);
    let beside = beats(address, &token, length).await;
    let after = [memory_kib(&servers.pods[0]), redis_kib(servers.redis.as_ref())];
    let used = cpu(&servers.pods[0]).saturating_sub(used);
    let sent = attacker.stop();
    println!("{kind:?}, locks in {store}: {sent} requests in {length:?}, {used:.1?} of processor time in the server");
    println!("  heartbeats alone:  {}, {} failed", figures(quiet.0), quiet.1);
    println!("  heartbeats beside: {}, {} failed", figures(beside.0), beside.1);
    println!("  KiB of server and Redis: {before:?} before, {after:?} after");
}

/// Renews all locks for this time, each time on a new connection. Returns the response times and
/// the number of failures.
async fn beats(address: &str, token: &str, length: Duration) -> (Vec<Duration>, usize) {
    let end = Instant::now() + length;
    let mut holders = JoinSet::new();
    for holder in 0..HOLDERS {
        let (address, token) = (address.to_owned(), token.to_owned());
        holders.spawn(async move {
            let (mut times, mut failed) = (Vec::new(), 0);
            while Instant::now() < end {
                let begun = Instant::now();
                let path = format!("/v1/heartbeat/held-{holder}?owner=quiet");
                if ask(&address, &token, &path, "").await {
                    times.push(begun.elapsed());
                } else {
                    failed += 1;
                }
                sleep(PAUSE).await;
            }
            (times, failed)
        });
    }
    let all = holders.join_all().await;
    let failed = all.iter().map(|(_, failed)| failed).sum();
    (all.into_iter().flat_map(|(times, _)| times).collect(), failed)
}

/// Sends a request on a new connection; returns whether the response is positive.
async fn ask(address: &str, token: &str, path: &str, body: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let (method, length) = (if body.is_empty() { "GET" } else { "POST" }, body.len());
    let authorization = STANDARD.encode(format!("{token}:"));
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nAuthorization: Basic {authorization}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    let mut answer = String::new();
    let read = async {
        stream.write_all(head.as_bytes()).await?;
        stream.read_to_string(&mut answer).await
    };
    read.await.is_ok() && answer.contains("\"response\":true")
}

fn redis_kib(redis: Option<&Child>) -> u64 {
    redis.map_or(0, memory_kib)
}
