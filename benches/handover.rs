//! The latency of a hand-over: 20 clients on two servers acquire one lock, and each releases it
//! at once. And the rate of hand-overs: the same with 100 locks and 300 clients.
//!
//! `cargo bench --bench handover -- [SECONDS]`.

#![allow(clippy::indexing_slicing, clippy::print_stdout, clippy::unwrap_used, reason = "a command-line program")]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{Connection, Servers, figures};

const CLIENTS: usize = 20;
const LOCKS: usize = 100;
const CLIENTS_EACH: usize = 3;

#[derive(Default)]
struct Measurements {
    release_sent: Option<Instant>,
    release_answered: Option<Instant>,
    from_sent: Vec<Duration>,
    from_answered: Vec<Duration>,
    grants: [u32; CLIENTS],
}

#[tokio::main]
async fn main() {
    let seconds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(10);
    let servers = Servers::start(2, &[]);
    measure_latency(&servers, seconds).await;
    measure_rate(&servers, seconds).await;
}

async fn measure_latency(servers: &Servers, seconds: u64) {
    let measurements = Arc::new(Mutex::new(Measurements::default()));
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients = (0..CLIENTS).map(|number| {
        let (address, token, measurements) =
            (servers.addresses[number % 2].clone(), servers.token.clone(), measurements.clone());
        tokio::spawn(async move { run_client(number, &address, &token, &measurements, end).await })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let measurements = std::mem::take(&mut *measurements.lock().unwrap());
    println!("{CLIENTS} clients on 2 servers, {seconds} s");
    println!("from the release's answer to the next holder's: {}", figures(measurements.from_answered));
    println!("from sending the release to the next holder's answer: {}", figures(measurements.from_sent));
    let (least, most) = (measurements.grants.iter().min().unwrap(), measurements.grants.iter().max().unwrap());
    println!("grants per client: {least} to {most}");
}

async fn run_client(number: usize, address: &str, token: &str, measurements: &Mutex<Measurements>, end: Instant) {
    let mut connection = Connection::open(address, token).await;
    let acquire = format!("/v1/acquire/bench?wait=50s&owner=client-{number}");
    let release = format!("/v1/release/bench?owner=client-{number}");
    while Instant::now() < end {
        let granted = connection.get(&acquire).await;
        let now = Instant::now();
        assert_eq!(granted["response"], true, "{granted}");
        {
            let mut measurements = measurements.lock().unwrap();
            measurements.grants[number] += 1;
            // The answer to a release can arrive after the next holder's answer.
            if let Some(answered) = measurements.release_answered.take() {
                measurements.from_answered.push(now.saturating_duration_since(answered));
            } else if measurements.release_sent.is_some() {
                measurements.from_answered.push(Duration::ZERO);
            }
            if let Some(sent) = measurements.release_sent.take() {
                measurements.from_sent.push(now - sent);
            }
            measurements.release_sent = Some(Instant::now());
        }
        let grants_before = measurements.lock().unwrap().grants;
        let released = connection.get(&release).await;
        assert_eq!(released["response"], true, "{released}");
        let mut measurements = measurements.lock().unwrap();
        if measurements.grants == grants_before {
            measurements.release_answered = Some(Instant::now());
        }
    }
}

async fn measure_rate(servers: &Servers, seconds: u64) {
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients = (0..LOCKS * CLIENTS_EACH).map(|number| {
        let (address, token) = (servers.addresses[number % 2].clone(), servers.token.clone());
        tokio::spawn(async move {
            let mut connection = Connection::open(&address, &token).await;
            let lock = number % LOCKS;
            let acquire = format!("/v1/acquire/many-{lock}?wait=50s&owner=client-{number}");
            let release = format!("/v1/release/many-{lock}?owner=client-{number}");
            let mut grants = 0;
            while Instant::now() < end {
                assert_eq!(connection.get(&acquire).await["response"], true);
                assert_eq!(connection.get(&release).await["response"], true);
                grants += 1;
            }
            grants
        })
    });
    let mut grants = Vec::<u64>::new();
    for client in clients.collect::<Vec<_>>() {
        grants.push(client.await.unwrap());
    }
    let (sum, least, most) = (grants.iter().sum::<u64>(), grants.iter().min().unwrap(), grants.iter().max().unwrap());
    println!(
        "{LOCKS} locks, {CLIENTS_EACH} clients each: {} hand-overs per second, grants per client {least} to {most}",
        sum / seconds
    );
}
