//! How long it takes to hand a lock over: 20 clients on two servers want one
//! lock, each releases it as soon as it has it. And how often that can be done:
//! the same with 100 locks, and 300 clients.
//!
//! `cargo bench --bench handover`, with an argument for the seconds it runs.

#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for a person at a terminal"
)]

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
struct Record {
    release_sent: Option<Instant>,
    release_answered: Option<Instant>,
    from_sent: Vec<Duration>,
    from_answered: Vec<Duration>,
    turns: [u32; CLIENTS],
}

#[tokio::main]
async fn main() {
    let seconds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(10);
    let servers = Servers::start(2, &[]);
    hand_one_over(&servers, seconds).await;
    hand_many_over(&servers, seconds).await;
}

async fn hand_one_over(servers: &Servers, seconds: u64) {
    let record = Arc::new(Mutex::new(Record::default()));
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients = (0..CLIENTS).map(|number| {
        let (address, token, record) = (servers.addresses[number % 2].clone(), servers.token.clone(), record.clone());
        tokio::spawn(async move { take_turns(number, &address, &token, &record, end).await })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let record = std::mem::take(&mut *record.lock().unwrap());
    println!("{CLIENTS} clients on 2 servers, {seconds} s");
    println!("from the release's answer to the next holder's: {}", figures(record.from_answered));
    println!("from sending the release to the next holder's answer: {}", figures(record.from_sent));
    let (least, most) = (record.turns.iter().min().unwrap(), record.turns.iter().max().unwrap());
    println!("turns per client: {least} to {most}");
}

async fn take_turns(number: usize, address: &str, token: &str, record: &Mutex<Record>, end: Instant) {
    let mut connection = Connection::open(address, token).await;
    let acquire = format!("/v1/acquire/bench?wait=50s&owner=client-{number}");
    let release = format!("/v1/release/bench?owner=client-{number}");
    while Instant::now() < end {
        let granted = connection.get(&acquire).await;
        let now = Instant::now();
        assert_eq!(granted["response"], true, "{granted}");
        {
            let mut record = record.lock().unwrap();
            record.turns[number] += 1;
            // Who releases may have its answer a moment after the next one.
            if let Some(answered) = record.release_answered.take() {
                record.from_answered.push(now.saturating_duration_since(answered));
            } else if record.release_sent.is_some() {
                record.from_answered.push(Duration::ZERO);
            }
            if let Some(sent) = record.release_sent.take() {
                record.from_sent.push(now - sent);
            }
            record.release_sent = Some(Instant::now());
        }
        let turn = record.lock().unwrap().turns;
        let released = connection.get(&release).await;
        assert_eq!(released["response"], true, "{released}");
        let mut record = record.lock().unwrap();
        if record.turns == turn {
            record.release_answered = Some(Instant::now());
        }
    }
}

async fn hand_many_over(servers: &Servers, seconds: u64) {
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients = (0..LOCKS * CLIENTS_EACH).map(|number| {
        let (address, token) = (servers.addresses[number % 2].clone(), servers.token.clone());
        tokio::spawn(async move {
            let mut connection = Connection::open(&address, &token).await;
            let lock = number % LOCKS;
            let acquire = format!("/v1/acquire/many-{lock}?wait=50s&owner=client-{number}");
            let release = format!("/v1/release/many-{lock}?owner=client-{number}");
            let mut turns = 0;
            while Instant::now() < end {
                assert_eq!(connection.get(&acquire).await["response"], true);
                assert_eq!(connection.get(&release).await["response"], true);
                turns += 1;
            }
            turns
        })
    });
    let mut turns = Vec::<u64>::new();
    for client in clients.collect::<Vec<_>>() {
        turns.push(client.await.unwrap());
    }
    let (sum, least, most) = (turns.iter().sum::<u64>(), turns.iter().min().unwrap(), turns.iter().max().unwrap());
    println!(
        "{LOCKS} locks, {CLIENTS_EACH} clients each: {} hand-overs a second, turns per client {least} to {most}",
        sum / seconds
    );
}
