//! The cost of a request as numbers grow: held locks, active accounts, servers on one Redis.
//! Measures CPU time per request, of the servers and of Redis, since the throughput on one
//! machine is limited by its CPUs.
//!
//! `cargo bench --bench growth -- [SECONDS]`, the duration of each measurement.

#![allow(clippy::indexing_slicing, clippy::print_stdout, clippy::unwrap_used, reason = "a command-line program")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use common::{Connection, Servers, cpu};

/// The number of concurrent connections.
const CONNECTIONS: usize = 64;
const HELD: [usize; 4] = [1, 1_000, 10_000, 100_000];
const ACCOUNTS: [usize; 3] = [1, 100, 1_000];
const PODS: [usize; 4] = [1, 2, 4, 8];

#[tokio::main]
async fn main() {
    let seconds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(4);
    println!("acquire and release in turn, {CONNECTIONS} connections, {seconds} s each: µs of CPU time per request");
    println!("{:>10} {:>24} {:>10} {:>10} {:>12}", "", "", "servers", "Redis", "requests/s");

    let servers = Servers::start(1, &[]);
    let mut held = 0;
    for count in HELD {
        acquire_locks(&servers, held, count).await;
        held = count;
        let tokens = [servers.token.clone()];
        report("held", &format!("{count} locks"), &servers, &tokens, seconds).await;
    }
    drop(servers);

    let servers = Servers::start(1, &[]);
    let mut tokens = vec![servers.token.clone()];
    for count in ACCOUNTS {
        while tokens.len() < count {
            tokens.push(servers.account(&format!("bench-{}@example.com", tokens.len())));
        }
        report("active", &format!("{count} accounts"), &servers, &tokens, seconds).await;
    }
    drop(servers);

    for count in PODS {
        let servers = Servers::start(count, &[("LOCKABLE_WORKERS", "1")]);
        let tokens = [servers.token.clone()];
        report("running", &format!("{count} servers"), &servers, &tokens, seconds).await;
    }
}

/// Acquires the locks from number `from` to `to`, which the account then holds.
async fn acquire_locks(servers: &Servers, from: usize, to: usize) {
    let mut acquiring = Vec::new();
    for part in 0..CONNECTIONS {
        let (address, token) = (servers.addresses[0].clone(), servers.token.clone());
        acquiring.push(tokio::spawn(async move {
            let mut connection = Connection::open(&address, &token).await;
            for number in (from..to).skip(part).step_by(CONNECTIONS) {
                let held = connection.get(&format!("/v1/acquire/held-{number}?owner=someone")).await;
                assert_eq!(held["response"], true, "{held}");
            }
        }));
    }
    for held in acquiring {
        held.await.unwrap();
    }
}

async fn report(title: &str, what: &str, servers: &Servers, tokens: &[String], seconds: u64) {
    // The first requests of each connection look up their token.
    send_requests(servers, tokens, Duration::from_millis(500)).await;
    let redis = servers.redis.as_ref().unwrap();
    let used = || (servers.pods.iter().map(cpu).sum::<Duration>(), cpu(redis));
    let (before, begun) = (used(), Instant::now());
    let requests = send_requests(servers, tokens, Duration::from_secs(seconds)).await as f64;
    let (after, took) = (used(), begun.elapsed());
    let each = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() * 1e6 / requests;
    println!(
        "{title:>10} {what:>24} {:10.1} {:10.1} {:12.0}",
        each(before.0, after.0),
        each(before.1, after.1),
        requests / took.as_secs_f64(),
    );
}

/// Acquires and releases for this time. Returns the number of requests.
async fn send_requests(servers: &Servers, tokens: &[String], time: Duration) -> u64 {
    let (end, count) = (Instant::now() + time, Arc::new(AtomicU64::new(0)));
    let sending = (0..CONNECTIONS).map(|number| {
        let address = servers.addresses[number % servers.addresses.len()].clone();
        let (tokens, count) = (tokens.to_vec(), count.clone());
        tokio::spawn(async move {
            let mut connection = Connection::open(&address, "").await;
            // Each request uses the next account's token.
            for round in number.. {
                if Instant::now() >= end {
                    break;
                }
                let token = &tokens[round * CONNECTIONS % tokens.len()];
                for operation in ["acquire", "release"] {
                    let answer = connection.get_as(token, &format!("/v1/{operation}/growth-{number}-{round}")).await;
                    assert_eq!(answer["response"], true, "{answer}");
                }
                count.fetch_add(2, Ordering::Relaxed);
            }
        })
    });
    for sender in sending.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    count.load(Ordering::Relaxed)
}
