//! The cost of a queued request: 10,000 of them on one server, each on its own connection, all
//! for one lock or each for another one.
//!
//! `cargo bench --bench waiters -- [REQUESTS]`.

#![allow(clippy::indexing_slicing, clippy::print_stdout, clippy::unwrap_used, reason = "a command-line program")]

mod common;

use std::time::{Duration, Instant};

use common::{
    Connection, Servers,
    bare::{BareAxum, serve_if_bare},
    cpu, figures, memory_kib,
};

const IDLE_TIME: Duration = Duration::from_secs(10);

fn main() {
    serve_if_bare();
    tokio::runtime::Runtime::new().unwrap().block_on(measure());
}

async fn measure() {
    let waiters: usize = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(10_000);
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    println!("memory per connection of a bare axum server: {:.1} KiB", idle_bare_kib(waiters).await);
    for (title, locks) in [("all for one lock", 1), ("each for another lock", waiters)] {
        let servers = Servers::start(
            1,
            &[
                ("LOCKABLE_WAITERS", "19000"),
                ("LOCKABLE_WAIT_MAX", "10m"),
                ("LOCKABLE_CONNECTIONS_PER_ADDRESS", "20000"),
            ],
        );
        let (address, token, pod) = (&servers.addresses[0], &servers.token, &servers.pods[0]);
        let mut control = Connection::open(address, token).await;
        for lock in 0..locks {
            assert_eq!(control.get(&format!("/v1/acquire/lock-{lock}?lease=1h")).await["response"], true);
        }
        // Idle connections use memory, too.
        let before_kib = memory_kib(pod);
        let mut connections = Vec::new();
        for _ in 0..waiters {
            let mut connection = Connection::open(address, token).await;
            connection.get("/v1/locks/other").await;
            connections.push(connection);
        }
        let idle_kib = memory_kib(pod);
        // In batches: a server rejects concurrent requests beyond LOCKABLE_REQUESTS.
        let mut waiting = 0;
        for batch in connections.chunks_mut(1000) {
            for connection in batch {
                connection.send(&format!("/v1/acquire/lock-{}?wait=9m", waiting % locks)).await;
                waiting += 1;
            }
            while control.get("/v1/account").await["requests_waiting"] != waiting {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let waiting_kib = memory_kib(pod);

        let (pod_before, redis_before, begin) = (cpu(pod), cpu(servers.redis.as_ref().unwrap()), Instant::now());
        tokio::time::sleep(IDLE_TIME).await;
        let share = |before: Duration, after: Duration| {
            after.saturating_sub(before).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0
        };
        let (pod_share, redis_share) =
            (share(pod_before, cpu(pod)), share(redis_before, cpu(servers.redis.as_ref().unwrap())));
        let mut times = Vec::new();
        for _ in 0..2000 {
            let sent_at = Instant::now();
            assert_eq!(control.get("/v1/heartbeat/lock-0?lease=1h").await["response"], true);
            times.push(sent_at.elapsed());
        }
        let each = |from: u64, to: u64| (to.saturating_sub(from)) as f64 / waiters as f64;
        println!("{waiters} queued requests, {title}");
        println!("  server memory: {before_kib} KiB before, {:.1} KiB per connection,", each(before_kib, idle_kib));
        println!("  {:.1} KiB more per queued request", each(idle_kib, waiting_kib));
        println!("  CPU while idle: server {pod_share:.1} %, Redis {redis_share:.1} %");
        println!("  heartbeat latency meanwhile: {}", figures(times));
    }
}

/// The memory per connection of a minimal axum server.
async fn idle_bare_kib(count: usize) -> f64 {
    let bare = BareAxum::start();
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
