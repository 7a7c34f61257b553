//! One account does its worst beside another that sends heartbeats: how long these
//! take, whether one fails, and what memory the server and Redis take.
//!
//! `cargo bench --bench tenants`, with an argument for the seconds of each trial.

#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for a person at a terminal"
)]

mod common;

use std::{
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{Servers, figures, memory_kib};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// How many locks the quiet account holds, and how often each is renewed.
const HOLDERS: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// How many requests of the other account are under way at once.
const WORKERS: usize = 60;
const QUIET: Duration = Duration::from_secs(10);

/// What the other account does.
#[derive(Clone, Copy, Debug)]
enum Worst {
    /// Queue entries with the longest texts, whose clients hang up.
    QueueEntries,
    /// Locks with the longest descriptions, of ever new names.
    Locks,
    /// Acquires and releases with the longest notes, for the history.
    History,
    /// Lists of a thousand locks.
    Lists,
    /// Connections on which nothing follows.
    IdleConnections,
    /// Requests with random tokens, which no account has.
    UnknownTokens,
}

#[tokio::main]
async fn main() {
    let seconds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(60);
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let all =
        [Worst::QueueEntries, Worst::Locks, Worst::History, Worst::Lists, Worst::IdleConnections, Worst::UnknownTokens];
    for place in ["Redis", "in the process"] {
        for worst in all {
            let servers = match place {
                "Redis" => Servers::start(1, &[("LOCKABLE_CONNECTIONS", "4000"), ("LOCKABLE_WAITERS", "3000")]),
                _ => Servers::start_embedded(),
            };
            // As plans are, and not as other benchmarks want them.
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
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (address, token, stop, asked) = (address.clone(), servers.token.clone(), stop.clone(), asked.clone());
        workers.spawn(async move { work(worst, worker, &address, &token, &stop, &asked).await });
    }
    let beside = beats(address, &token, length).await;
    let after = [memory_kib(&servers.pods[0]), redis_kib(servers.redis.as_ref())];
    stop.store(true, Ordering::Relaxed);
    workers.shutdown().await;
    println!("{worst:?}, locks in {place}: {} requests in {length:?}", asked.load(Ordering::Relaxed));
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

async fn work(worst: Worst, worker: usize, address: &str, token: &str, stop: &AtomicBool, asked: &AtomicU64) {
    let long = "x".repeat(480);
    let mut idle = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        asked.fetch_add(1, Ordering::Relaxed);
        let run = format!("{worker}-{number}");
        let info = format!(r#"{{"ID":"{run}","Info":"{}"}}"#, "x".repeat(1900));
        match worst {
            Worst::QueueEntries => {
                let waiting = ask(address, token, "/v1/terraform/queue?wait=55s&lease=24h", &info);
                let _ = timeout(Duration::from_millis(200), waiting).await;
            }
            Worst::Locks => {
                ask(address, token, &format!("/v1/terraform/lock-{run}"), &info).await;
            }
            Worst::History => {
                let lock = format!("lock-{}?owner={run}", number % 1000);
                ask(address, token, &format!("/v1/acquire/{lock}&note={long}"), "").await;
                ask(address, token, &format!("/v1/release/{lock}"), "").await;
            }
            Worst::Lists if number <= 40 => {
                ask(address, token, &format!("/v1/acquire/lock-{run}?lease=1h"), "").await;
            }
            Worst::Lists => {
                ask(address, token, "/v1/locks?limit=1000", "").await;
            }
            Worst::IdleConnections => {
                // From ten addresses, each of which has its share.
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(([127, 0, 1, (worker % 10) as u8], 0).into()).unwrap();
                idle.extend(socket.connect(address.parse().unwrap()).await);
                if idle.len() > 150 {
                    idle.remove(0);
                }
                sleep(Duration::from_millis(2)).await;
            }
            Worst::UnknownTokens => {
                ask(address, &format!("8d0e1e1c-0000-4000-8000-{:012}", worker * 1_000_000 + number), "/v1/locks", "")
                    .await;
            }
        }
    }
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
