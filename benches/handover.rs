//! How long it takes to hand a lock over: 20 clients on two servers want one
//! lock, each releases it as soon as it has it.
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

#[derive(Default)]
struct Record {
    release_sent: Option<Instant>,
    release_answered: Option<Instant>,
    from_sent: Vec<Duration>,
    from_answered: Vec<Duration>,
    turns: [u32; CLIENTS],
}

#[tokio::main]
#[expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for a person at a terminal"
)]
async fn main() {
    let seconds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(10);
    let servers = Servers::start(2, &[]);
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
