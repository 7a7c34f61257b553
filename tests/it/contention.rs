//! Many clients, several pods, one Redis and one Postgres: no two holders at
//! once, and fences that rise.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::support::{Client, Cluster, crowd_turn};

const NAMES: usize = 10;
const CLIENTS: usize = 100;
const FIGHT: Duration = Duration::from_secs(30);

/// What the holders write to, as a resource would that they protect. It has no
/// lock of its own but for memory safety: it only looks on.
#[derive(Default)]
struct Record {
    writing: HashMap<usize, u64>,
    fences: HashMap<usize, Vec<u64>>,
    faults: Vec<String>,
}

impl Record {
    fn enter(&mut self, name: usize, fence: u64) {
        if let Some(other) = self.writing.insert(name, fence) {
            self.faults.push(format!("{name}: {fence} entered while {other} was in"));
        }
        let fences = self.fences.entry(name).or_default();
        if fences.last().is_some_and(|last| *last >= fence) {
            self.faults.push(format!("{name}: {fence} after {}", fences.last().unwrap()));
        }
        fences.push(fence);
    }

    fn leave(&mut self, name: usize, fence: u64) {
        if self.writing.remove(&name) != Some(fence) {
            self.faults.push(format!("{name}: {fence} left and was not in"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_on_three_pods_never_hold_one_name_together() {
    let _crowd = crowd_turn().await;
    let cluster = Cluster::start(3).await;
    cluster.operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let accounts = [cluster.account("business").await, cluster.account("business").await];
    let record = Arc::new(Mutex::new(Record::default()));
    let end = Instant::now() + FIGHT;

    let clients = (0..CLIENTS).map(|number| {
        // Half of the clients name an owner, and they are of two accounts.
        let client = cluster.pods[number % 3].client(&accounts[number % 2].token);
        let owner = if number % 4 < 2 { format!("?owner=client-{number}") } else { String::new() };
        tokio::spawn(fight(client, number, owner, record.clone(), end))
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }

    let record = record.lock().unwrap();
    assert_eq!(record.faults, Vec::<String>::new());
    assert!(record.writing.is_empty());
    for name in 0..NAMES {
        let grants = record.fences.get(&name).map_or(0, Vec::len);
        assert!(grants > 50, "{name} was granted {grants} times, too few to mean anything");
    }
}

async fn fight(client: Client, number: usize, owner: String, record: Arc<Mutex<Record>>, end: Instant) {
    let mut turn = number;
    while Instant::now() < end {
        turn += 1;
        let name = turn % NAMES;
        let granted = client.get(&format!("/v1/acquire/fight-{name}{owner}")).await;
        // On a machine that is busy otherwise a request may be answered too late;
        // such a client holds nothing.
        assert!(matches!(granted.status, 200 | 503), "{}", granted.text);
        if granted.json["response"] != true {
            continue;
        }
        let fence = granted.json["fencing_token"].as_u64().unwrap();
        record.lock().unwrap().enter(name, fence);
        if turn.is_multiple_of(3) {
            let renewed = client.get(&format!("/v1/heartbeat/fight-{name}{owner}")).await;
            assert!(renewed.status == 503 || renewed.json["response"] == true, "{}", renewed.text);
        }
        record.lock().unwrap().leave(name, fence);
        // By its fence, so that a release sent again takes nobody else's grant.
        let join = if owner.is_empty() { '?' } else { '&' };
        let release = format!("/v1/release/fight-{name}{owner}{join}fencing_token={fence}");
        while client.get(&release).await.status != 200 {}
    }
}
