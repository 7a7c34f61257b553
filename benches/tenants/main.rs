//! One account does its worst beside another that sends heartbeats: how long these
//! take, whether one fails, and what memory the server and Redis take.
//!
//! `cargo bench --bench tenants`, with the seconds of each trial and the names of attacks as
//! arguments. The attacks come from a process of the lowest priority: a client on the same
//! machine must not take the processor from the server, as none elsewhere could.

#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for a person at a terminal"
)]

mod attack;
mod browser;
#[path = "../common/mod.rs"]
mod common;

use std::{
    process::Child,
    time::{Duration, Instant},
};

use attack::{Attack, Attacker, Worst};
use base64::{Engine, engine::general_purpose::STANDARD};
use common::{Servers, cpu, figures, memory_kib};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

/// How many locks the quiet account holds, and how often each is renewed.
const HOLDERS: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);
const QUIET: Duration = Duration::from_secs(10);

fn main() {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        match Attack::asked_for() {
            Some(attack) => attack.carry_out().await,
            None => measure().await,
        }
    });
}

async fn measure() {
    let arguments: Vec<String> = std::env::args().collect();
    let seconds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(60);
    let chosen = |worst: &Worst| {
        let names: Vec<_> = arguments[1..].iter().filter(|argument| Worst::from_name(argument).is_some()).collect();
        names.is_empty() || names.iter().any(|name| Worst::from_name(name) == Some(*worst))
    };
    for place in ["Redis", "the process"] {
        for worst in Worst::ALL.into_iter().filter(chosen) {
            let servers = match place {
                "Redis" => Servers::start(1, &[("LOCKABLE_CONNECTIONS", "4000"), ("LOCKABLE_WAITERS", "3000")]),
                _ => Servers::start_embedded(),
            };
            // The default plan, and not as other benchmarks want it.
            servers.operator(&["plan", "set", "business", "--rate", "1000", "--burst", "2000"]);
            servers.operator(&["plan", "set", "business", "--locks", "100000", "--waiters", "10000"]);
            trial(place, worst, &servers, Duration::from_secs(seconds)).await;
        }
    }
}

async fn trial(place: &str, worst: Worst, servers: &Servers, length: Duration) {
    let (address, token) = (&servers.addresses[0], servers.account("quiet@example.com"));
    for holder in 0..HOLDERS {
        // A server that has just started may not have reached its store yet.
        let begun = Instant::now();
        while !ask(address, &token, &format!("/v1/acquire/held-{holder}?owner=quiet"), "").await {
            assert!(begun.elapsed() < Duration::from_secs(10), "no lock for the quiet account");
            sleep(PAUSE).await;
        }
    }
    let quiet = beats(address, &token, QUIET).await;
    let before = [memory_kib(&servers.pods[0]), redis_kib(servers.redis.as_ref())];
    let used = cpu(&servers.pods[0]);
    let attacker = Attacker::start(worst, servers);
    let beside = beats(address, &token, length).await;
    let after = [memory_kib(&servers.pods[0]), redis_kib(servers.redis.as_ref())];
    let used = cpu(&servers.pods[0]).saturating_sub(used);
    let sent = attacker.stop();
    println!("{worst:?}, locks in {place}: {sent} requests in {length:?}, {used:.1?} of processor time in the server");
    println!("  heartbeats alone:  {}, {} failed", figures(quiet.0), quiet.1);
    println!("  heartbeats beside: {}, {} failed", figures(beside.0), beside.1);
    println!("  KiB of server and Redis: {before:?} before, {after:?} after");
}

/// Renews all locks for so long, each time on a new connection: how long that took,
/// and how often it failed.
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

/// Sends a request on a connection of its own; whether the answer is yes.
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
