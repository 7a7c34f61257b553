//! What a waiting request costs: 10,000 of them on one server, each on its own
//! connection, all for one lock or each for its own.
//!
//! `cargo bench --bench waiters`, with an argument for how many wait.

#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for a person at a terminal"
)]

mod common;

use std::time::{Duration, Instant};

use common::{
    Connection, Servers,
    bare::{Bare, serve_if_asked},
    cpu, figures, memory_kib,
};

const WATCHED: Duration = Duration::from_secs(10);

fn main() {
    serve_if_asked();
    tokio::runtime::Runtime::new().unwrap().block_on(measure());
}

async fn measure() {
    let waiters: usize = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(10_000);
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    println!("a connection to bare axum: {:.1} KiB", idle_bare_kib(waiters).await);
    for (title, locks) in [("all for one lock", 1), ("each for a lock of its own", waiters)] {
        let servers = Servers::start(
            1,
            &[
                ("LOCKABLE_WAITERS", "19000"),
                ("LOCKABLE_WAIT_MAX", "10m"),
                ("LOCKABLE_CONNECTIONS_PER_ADDRESS", "20000"),
            ],
        );
        let (address, token, pod) = (&servers.addresses[0], &servers.token, &servers.pods[0]);
        let mut beside = Connection::open(address, token).await;
        for lock in 0..locks {
            assert_eq!(beside.get(&format!("/v1/acquire/lock-{lock}?lease=1h")).await["response"], true);
        }
        // Connections that wait for nothing cost something, too.
        let before_kib = memory_kib(pod);
        let mut connections = Vec::new();
        for _ in 0..waiters {
            let mut connection = Connection::open(address, token).await;
            connection.get("/v1/locks/other").await;
            connections.push(connection);
        }
        let idle_kib = memory_kib(pod);
        // Not all at once: a server sheds those of a crowd beyond LOCKABLE_REQUESTS.
        let mut waiting = 0;
        for crowd in connections.chunks_mut(1000) {
            for connection in crowd {
                connection.send(&format!("/v1/acquire/lock-{}?wait=9m", waiting % locks)).await;
                waiting += 1;
            }
            while beside.get("/v1/account").await["requests_waiting"] != waiting {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let waiting_kib = memory_kib(pod);

        let (pod_before, redis_before, begin) = (cpu(pod), cpu(servers.redis.as_ref().unwrap()), Instant::now());
        tokio::time::sleep(WATCHED).await;
        let share = |before: Duration, after: Duration| {
            after.saturating_sub(before).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0
        };
        let (pod_share, redis_share) =
            (share(pod_before, cpu(pod)), share(redis_before, cpu(servers.redis.as_ref().unwrap())));
        let mut times = Vec::new();
        for _ in 0..2000 {
            let asked = Instant::now();
            assert_eq!(beside.get("/v1/heartbeat/lock-0?lease=1h").await["response"], true);
            times.push(asked.elapsed());
        }
        let each = |from: u64, to: u64| (to.saturating_sub(from)) as f64 / waiters as f64;
        println!("{waiters} waiting requests, {title}");
        println!(
            "  memory of the server: {before_kib} KiB before, {:.1} KiB for each connection,",
            each(before_kib, idle_kib)
        );
        println!("  {:.1} KiB more while it waits", each(idle_kib, waiting_kib));
        println!("  while nothing happens: server {pod_share:.1} %, Redis {redis_share:.1} % of a processor");
        println!("  a heartbeat beside them: {}", figures(times));
    }
}

/// The memory of a server that does nothing but answer, for each connection.
async fn idle_bare_kib(count: usize) -> f64 {
    let bare = Bare::start();
    let mut connections = Vec::new();
    Connection::open(&bare.address, "").await.get("/").await;
    let before_kib = memory_kib(&bare.process);
    for _ in 0..count {
        let mut connection = Connection::open(&bare.address, "").await;
        connection.get("/").await;
        connections.push(connection);
    }
    memory_kib(&bare.process).saturating_sub(before_kib) as f64 / count as f64
}
