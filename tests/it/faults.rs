//! Faults, one after another, under clients that write down what they rely on:
//! never do two hold one lock, fences only rise, every answer comes in time, and
//! service comes back by itself.

mod away;
mod elsewhere;
mod forgetful;
mod soak;
mod topology;

use std::time::{Duration, Instant};

use crate::support::{
    Client, Cluster, Pod, eventually,
    holders::{Holders, Tally, Wanted},
    redis::{self, RedisServer},
};

/// How long a recovery lasts in these tests at least: leases up to a second are
/// not written down, and a margin.
const RECOVERY: Duration = Duration::from_secs(6);

/// A Redis that writes down what it is told, as in production.
fn durable() -> redis::Builder {
    RedisServer::builder().args(&["--appendonly", "yes", "--appendfsync", "everysec"])
}

/// Two servers on such a Redis, whose recoveries are short.
async fn cluster() -> Cluster {
    Cluster::start_with(2, durable(), &[("LOCKABLE_JOURNAL_ABOVE", "1s")]).await
}

/// Clients of all pods, with a token that may ask as often as it likes.
async fn clients(pods: &[Pod]) -> Vec<Client> {
    pods[0].operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let token = pods[0].account("business").await.token;
    pods.iter().map(|pod| pod.client(&token)).collect()
}

/// What came of a fault.
struct Trial {
    tally: Tally,
    /// From when the fault was over until the first lock was granted.
    back_after: Duration,
}

/// Lets clients go on while `fault` happens, and until they are served again.
#[expect(clippy::print_stdout, reason = "how long each took is for whoever reads the run")]
async fn tried(name: &str, clients: &[Client], wanted: Wanted, fault: impl AsyncFnOnce()) -> Trial {
    let holders = Holders::start(clients, &wanted);
    eventually(async || holders.granted() >= 50).await;
    fault().await;
    let over = Instant::now();
    eventually(async || holders.history.first_after(over).is_some()).await;
    let back_after = holders.history.first_after(over).unwrap() - over;
    let granted = holders.granted();
    eventually(async || holders.granted() >= granted + 50).await;
    let tally = holders.stop().await;
    println!("{name}: granted again after {back_after:?}; {tally:?}");
    Trial { tally, back_after }
}
