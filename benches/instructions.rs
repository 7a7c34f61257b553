//! The number of instructions per request: a figure that does not depend on the load of the
//! machine, so that a change can be judged by itself.
//!
//! `cargo bench --bench instructions` prints the figure, and fails if it exceeds the one in
//! `benches/instructions.txt` by more than [`TOLERANCE`]. With the argument `record` it writes the
//! file. Needs valgrind and redis-server.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "an interactive program that panics on errors"
)]

mod common;

use std::{
    env, fs,
    time::{Duration, Instant},
};

use common::{Connection, Servers};

/// The number of counted requests, and of requests before these.
const COUNTED: u32 = 6_000;
const WARM_UP: u32 = 300;
/// The accepted relative increase.
const TOLERANCE: f64 = 0.05;
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

#[tokio::main]
async fn main() {
    // Both counts include the start, the stop, all first-time work and the periodic work of the
    // server. Both servers run for the same time, so that the difference does not change on a busy
    // machine, on which requests take longer.
    let begun = Instant::now();
    let many = count(WARM_UP + COUNTED, Duration::ZERO).await;
    let few = count(WARM_UP, begun.elapsed()).await;
    let per_request = (many - few) / u64::from(COUNTED);
    println!(
        "{per_request} instructions per request: acquire, heartbeat and release in turn, one connection, on Redis"
    );
    compare(per_request);
}

/// Counts the instructions of a server from its start to its end, with this number of requests,
/// over at least this time.
async fn count(requests: u32, length: Duration) -> u64 {
    let begun = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("callgrind.out");
    let file = format!("--callgrind-out-file={}", out.display());
    let under = ["valgrind", "--quiet", "--tool=callgrind", &file];
    // Under valgrind everything takes fifty times as long.
    let settings = [("LOCKABLE_REDIS_TIMEOUT", "10s"), ("LOCKABLE_REQUEST_TIMEOUT", "60s")];
    let mut servers = Servers::start_under(&under, 1, &settings);
    let mut connection = Connection::open(&servers.addresses[0], &servers.token).await;
    ask(&mut connection, requests).await;
    drop(connection);
    tokio::time::sleep(length.saturating_sub(begun.elapsed())).await;
    servers.stop();
    let text = fs::read_to_string(out).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    total.expect("the file of callgrind contains the total").trim().parse().unwrap()
}

/// Acquires, renews and releases locks in turn.
async fn ask(connection: &mut Connection, count: u32) {
    for number in 0..count {
        let operation = ["acquire", "heartbeat", "release"][number as usize % 3];
        let answer = connection.get(&format!("/v1/{operation}/counted-{}", number / 3)).await;
        assert_eq!(answer["response"], true, "{operation}: {answer}");
    }
}

fn compare(per_request: u64) {
    if env::args().any(|argument| argument == "record") {
        fs::write(RECORDED, format!("{per_request}\n")).unwrap();
        return;
    }
    let recorded: u64 = fs::read_to_string(RECORDED).unwrap().trim().parse().unwrap();
    let ratio = per_request as f64 / recorded as f64;
    println!("{recorded} are recorded: {:+.1} %", (ratio - 1.0) * 100.0);
    assert!(
        ratio <= 1.0 + TOLERANCE,
        "a request takes more instructions than recorded; run this with `record` if that is intended"
    );
}
