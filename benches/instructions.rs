//! How many instructions a request takes: a figure that does not depend on how
//! busy the machine is, by which a change can be judged by itself.
//!
//! `cargo bench --bench instructions` prints it, and fails when it is more than
//! [`TOLERANCE`] above the one in `benches/instructions.txt`; with the argument
//! `record` it is written there. Needs valgrind and redis-server.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for a person at a terminal"
)]

mod common;

use std::{
    env, fs,
    time::{Duration, Instant},
};

use common::{Connection, Servers};

/// How many requests are counted, and how many come before these.
const COUNTED: u32 = 6_000;
const BEFORE: u32 = 300;
/// How much may be added unseen.
const TOLERANCE: f64 = 0.05;
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

#[tokio::main]
async fn main() {
    // Starting, stopping and the first of everything are in both counts, and so is what the
    // server does once a second: both servers run for the same time, so that a busy machine,
    // on which requests take longer, does not change the difference.
    let begun = Instant::now();
    let many = count(BEFORE + COUNTED, Duration::ZERO).await;
    let few = count(BEFORE, begun.elapsed()).await;
    let per_request = (many - few) / u64::from(COUNTED);
    println!("{per_request} instructions a request: acquire, heartbeat and release by turns, one connection, on Redis");
    compare(per_request);
}

/// Counts the instructions of a server from its start to its end, with so many
/// requests in between, and at least for so long.
async fn count(requests: u32, length: Duration) -> u64 {
    let begun = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("callgrind.out");
    let file = format!("--callgrind-out-file={}", out.display());
    let under = ["valgrind", "--quiet", "--tool=callgrind", &file];
    // Under valgrind all takes fifty times as long.
    let settings = [("LOCKABLE_REDIS_TIMEOUT", "10s"), ("LOCKABLE_REQUEST_TIMEOUT", "60s")];
    let mut servers = Servers::start_under(&under, 1, &settings);
    let mut connection = Connection::open(&servers.addresses[0], &servers.token).await;
    ask(&mut connection, requests).await;
    drop(connection);
    tokio::time::sleep(length.saturating_sub(begun.elapsed())).await;
    servers.stop();
    let text = fs::read_to_string(out).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    total.expect("callgrind has written what it counted").trim().parse().unwrap()
}

/// Acquires, renews and releases by turns.
async fn ask(connection: &mut Connection, count: u32) {
    for number in 0..count {
        let operation = ["acquire", "heartbeat", "release"][number as usize % 3];
        let answer = connection.get(&format!("/v1/{operation}/counted-{}", number / 3)).await;
        assert_eq!(answer["response"], true, "{operation}: {answer}");
    }
}

fn compare(per_request: u64) {
    if env::args().any(|argument| argument == "record") {
        fs::write(RECORD, format!("{per_request}\n")).unwrap();
        return;
    }
    let recorded: u64 = fs::read_to_string(RECORD).unwrap().trim().parse().unwrap();
    let ratio = per_request as f64 / recorded as f64;
    println!("{recorded} are on record: {:+.1} %", (ratio - 1.0) * 100.0);
    assert!(ratio <= 1.0 + TOLERANCE, "a request takes more than it did; if it has to, run this with `record`");
}
