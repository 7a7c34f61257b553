//! Many clients, several servers, one Redis and one PostgreSQL: mutual exclusion and increasing
//! fences.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::support::{Client, Cluster, exclusive_cpu};

const NAMES: usize = 10;
const CLIENTS: usize = 100;
const DURATION: Duration = Duration::from_secs(30);

/// The resource that the locks protect. Its mutex serves memory safety only; it observes the
/// clients without excluding any.
#[derive(Default)]
struct Resource {
    writing: HashMap<usize, u64>,
    fences: HashMap<usize, Vec<u64>>,
    violations: Vec<String>,
}

impl Resource {
    fn enter(&mut self, name: usize, fence: u64) {
        if let Some(other) = self.writing.insert(name, fence) {
            self.violations.push(format!("{name}: {fence} entered while {other} was inside"));
        }
        let fences = self.fences.entry(name).or_default();
        if fences.last().is_some_and(|last| *last >= fence) {
            self.violations.push(format!("{name}: {fence} after {}", fences.last().unwrap()));
        }
        fences.push(fence);
    }

    fn leave(&mut self, name: usize, fence: u64) {
        if self.writing.remove(&name) != Some(fence) {
            self.violations.push(format!("{name}: {fence} left and was not inside"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_clients_on_three_servers_never_hold_one_lock_together() {
    let _cpu = exclusive_cpu().await;
    let cluster = Cluster::start(3).await;
    cluster.operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let accounts = [cluster.account("business").await, cluster.account("business").await];
    let resource = Arc::new(Mutex::new(Resource::default()));
    let end = Instant::now() + DURATION;

    let clients = (0..CLIENTS).map(|number| {
        // Half of the clients send an owner; the clients belong to two accounts.
        let client = cluster.pods[number % 3].client(&accounts[number % 2].token);
        let owner = if number % 4 < 2 { format!("?owner=client-{number}") } else { String::new() };
        tokio::spawn(contend(client, number, owner, resource.clone(), end))
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }

    let resource = resource.lock().unwrap();
    assert_eq!(resource.violations, Vec::<String>::new());
    assert!(resource.writing.is_empty());
    for name in 0..NAMES {
        let grants = resource.fences.get(&name).map_or(0, Vec::len);
        assert!(grants > 50, "{name} was granted {grants} times, too few for a meaningful test");
    }
}

async fn contend(client: Client, number: usize, owner: String, resource: Arc<Mutex<Resource>>, end: Instant) {
    let mut round = number;
    while Instant::now() < end {
        round += 1;
        let name = round % NAMES;
        let granted = client.get(&format!("/v1/acquire/fight-{name}{owner}")).await;
        // A busy machine may answer too late with 503; such a client holds nothing.
        assert!(matches!(granted.status, 200 | 503), "{}", granted.text);
        if granted.json["response"] != true {
            continue;
        }
        let fence = granted.json["fencing_token"].as_u64().unwrap();
        resource.lock().unwrap().enter(name, fence);
        if round.is_multiple_of(3) {
            let renewed = client.get(&format!("/v1/heartbeat/fight-{name}{owner}")).await;
            assert!(renewed.status == 503 || renewed.json["response"] == true, "{}", renewed.text);
        }
        resource.lock().unwrap().leave(name, fence);
        // Release by fencing token, so that a retry cannot release another client's grant.
        let join = if owner.is_empty() { '?' } else { '&' };
        let release = format!("/v1/release/fight-{name}{owner}{join}fencing_token={fence}");
        while client.get(&release).await.status != 200 {}
    }
}
