//! Fault injection under load. Clients record the grants they rely on; the tests assert that no two
//! clients hold a lock at once, that fences increase, that every response is in time, and that
//! service resumes by itself.

mod data_loss;
mod foreign_store;
mod outages;
mod soak;
mod topology;

use std::time::{Duration, Instant};

use crate::support::{
    Client, Cluster, Pod, eventually,
    redis::{self, RedisServer},
    workload::{Tally, Workload, WorkloadConfig},
};

/// The minimum duration of a recovery in these tests: the longest lease that is not in the journal,
/// one second, and a margin.
const RECOVERY: Duration = Duration::from_secs(6);

/// Returns a Redis with an append-only file, as in production.
fn durable() -> redis::Builder {
    RedisServer::builder().args(&["--appendonly", "yes", "--appendfsync", "everysec"])
}

/// Starts two servers on a durable Redis, with short recoveries.
async fn cluster() -> Cluster {
    Cluster::start_with(2, durable(), &[("LOCKABLE_JOURNAL_ABOVE", "1s")]).await
}

/// Returns one client per server, with a token whose rate is practically unlimited.
async fn clients(pods: &[Pod]) -> Vec<Client> {
    pods[0].operator(&["plan", "set", "business", "--rate", "100000", "--burst", "100000"]).await;
    let token = pods[0].account("business").await.token;
    pods.iter().map(|pod| pod.client(&token)).collect()
}

/// The result of an injected fault.
struct FaultOutcome {
    tally: Tally,
    /// The time from the end of the fault to the first grant.
    resumed_after: Duration,
}

/// Runs clients while `fault` happens and until they are granted locks again.
#[expect(clippy::print_stdout, reason = "the durations are useful in the test output")]
async fn run_with_fault(
    name: &str,
    clients: &[Client],
    config: WorkloadConfig,
    fault: impl AsyncFnOnce(),
) -> FaultOutcome {
    let workload = Workload::start(clients, &config);
    eventually(async || workload.granted() >= 50).await;
    fault().await;
    let over = Instant::now();
    eventually(async || workload.history.first_grant_after(over).is_some()).await;
    let resumed_after = workload.history.first_grant_after(over).unwrap() - over;
    let granted = workload.granted();
    eventually(async || workload.granted() >= granted + 50).await;
    let tally = workload.stop().await;
    println!("{name}: granted again after {resumed_after:?}; {tally:?}");
    FaultOutcome { tally, resumed_after }
}
