//! Runs one history, and checks the final state after its last request.

use std::{sync::Arc, time::Duration};

use lockable::{safeguards, safeguards::Safeguard};
use lockable_boot_time::BootTime;
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    client::{Clients, lock_key},
    cluster::Cluster,
    faults,
    history::{Action, FaultKind, History},
    oracle::{ANSWER_MS, Oracle},
    world::World,
};

/// The result of a history.
pub struct RunResult {
    pub violation: Option<String>,
    pub steps: u64,
    pub digest: u64,
    pub slowest_ms: u64,
    pub simulated_ms: u64,
    pub trace: Vec<String>,
}

/// The time that servers may take to end a recovery, beyond its waiting phase: to notice its
/// beginning, to wait for each other, and to retry.
const RECOVERY_SLACK_MS: u64 = 9000;
/// "all servers start while Redis is emptied, or Redis is emptied again before a recovery is
/// recorded: 13 s": 10 s of these for the counter of the named store.
const CLAIM_MS: u64 = 10_000;
/// The time in which hand-overs may go to queued requests whose clients are gone: such a request
/// holds the lock until its server reverts it, or until its time to claim is over.
const HAND_OVER_MS: u64 = 20_000;
/// The time without faults after which the journal has recorded all ends.
const QUIET_MS: u64 = 16_000;

pub fn run(history: &History, off: Option<Safeguard>, is_traced: bool) -> RunResult {
    safeguards::set_off(off);
    fastrand::seed(history.seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let result = runtime.block_on(async {
        BootTime::simulate_from(Some(Instant::now()));
        run_steps(history, is_traced).await
    });
    drop(runtime);
    BootTime::simulate_from(None);
    safeguards::set_off(None);
    result
}

async fn run_steps(history: &History, is_traced: bool) -> RunResult {
    let world = World::new(history.seed, history.servers, history.message_faults, is_traced);
    let cluster = Cluster::new(world.clone(), history.servers, history.short_ms);
    let lock_keys = (0..history.locks).map(|number| lock_key(number).to_string()).collect();
    let oracle = Oracle::new(world.clone(), cluster.database.clone(), history, lock_keys);
    let clients = Clients::new(history, cluster.clone(), oracle.clone());
    for server in 0..history.servers {
        cluster.start(server);
    }
    faults::spawn_all(history, &cluster, &oracle);
    let mut requests = JoinSet::new();
    for (id, step) in history.steps.iter().enumerate() {
        sleep_until(world.at(step.at_ms)).await;
        if oracle.violation().is_some() {
            break;
        }
        let (clients, step) = (clients.clone(), *step);
        requests.spawn(async move { clients.run_step(id as u64, step).await });
    }
    while requests.join_next().await.is_some() {}
    if oracle.violation().is_none() {
        FinalChecks { history, world: &world, cluster: &cluster, oracle: &oracle, clients: &clients, id: 1 << 32 }
            .check()
            .await;
    }
    RunResult {
        violation: oracle.violation(),
        steps: world.steps(),
        digest: world.digest(),
        slowest_ms: oracle.slowest_ms(),
        simulated_ms: world.now_ms(),
        trace: world.trace(),
    }
}

/// The checks after the end of all faults.
struct FinalChecks<'a> {
    history: &'a History,
    world: &'a Arc<World>,
    cluster: &'a Arc<Cluster>,
    oracle: &'a Arc<Oracle>,
    clients: &'a Arc<Clients>,
    id: u64,
}

impl FinalChecks<'_> {
    async fn check(&mut self) {
        // Waits for faults that outlast the requests.
        sleep_until(self.world.at(self.history.length_ms + 1000)).await;
        self.world.end_faults();
        for server in 0..self.history.servers {
            self.cluster.resume(server);
        }
        while !self.world.is_up() || (0..self.history.servers).any(|server| !self.cluster.is_running(server)) {
            sleep(Duration::from_millis(100)).await;
        }
        if self.oracle.slowest_ms() > ANSWER_MS {
            self.oracle.report_violation(format!("answer: the slowest took {} ms", self.oracle.slowest_ms()));
        }
        self.world.note("quiet", || "*** all faults end".to_owned());
        let recovered_by = self.recovered_by();
        if !self.release_all(recovered_by).await {
            return;
        }
        let is_restarted = self.world.draw(2) == 0;
        let mut recovered_by = recovered_by;
        if is_restarted {
            sleep(Duration::from_millis(QUIET_MS)).await;
            let keeps_data = self.world.draw(2) == 0;
            self.world.note("restart", || format!("*** the store is restarted, with its data: {keeps_data}"));
            self.world.crash();
            if !keeps_data {
                self.world.flush();
            }
            self.world.start_store(false, false);
            recovered_by = self.recovered_by();
        }
        for lock in 0..self.history.locks {
            self.await_free(lock, recovered_by).await;
        }
        if self.oracle.violation().is_none() && self.world.draw(8) == 0 {
            self.await_quota().await;
        }
    }

    /// The time by which a recovery must end that has begun, or begins now.
    fn recovered_by(&self) -> u64 {
        let wait_ms = self.history.short_ms + 5000;
        let claim_ms = if self.may_meet_unknown_store() { CLAIM_MS } else { 0 };
        self.world.now_ms() + wait_ms + RECOVERY_SLACK_MS + claim_ms + self.oracle.back_ms()
    }

    /// Whether the servers may find a store that none of them has worked with.
    fn may_meet_unknown_store(&self) -> bool {
        let mut faults = self.history.faults.iter();
        faults.any(|fault| matches!(fault.kind, FaultKind::Flush | FaultKind::RestartEmpty { .. }))
    }

    /// Releases every grant that a holder may have.
    async fn release_all(&mut self, by: u64) -> bool {
        for lock in 0..self.history.locks {
            for holder in 0..self.history.holders.len() {
                while self.oracle.relies(lock, holder) || self.oracle.may_hold(lock, holder) {
                    self.id += 1;
                    if self.clients.release(lock, holder, self.id).await {
                        break;
                    }
                    if self.world.now_ms() > by {
                        self.oracle.report_violation(format!("service: h{holder} cannot release lock {lock}"));
                        return false;
                    }
                    sleep(Duration::from_millis(500)).await;
                }
            }
        }
        true
    }

    async fn await_free(&mut self, lock: usize, recovered_by: u64) {
        // With a quota of one lock, the account's grants of other locks prevent a new grant.
        let locks = if self.history.held_max == 1 { 0..self.history.locks } else { lock..lock + 1 };
        let free_by = locks.map(|lock| self.oracle.free_by(lock)).max().unwrap_or(0);
        let mut by = free_by.max(recovered_by);
        if self.history.steps.iter().any(|step| matches!(step.action, Action::Acquire { wait_ms: 1.., .. })) {
            by += HAND_OVER_MS;
        }
        loop {
            self.id += 1;
            match self.clients.probe(lock, self.id).await {
                Ok(fence) => return self.oracle.check_probe(lock, fence),
                Err(reason) if self.world.now_ms() > by => {
                    self.oracle.report_violation(format!("stuck: lock {lock} should be free by {by} ms: {reason}"));
                    return;
                }
                Err(_) => sleep(Duration::from_millis(400)).await,
            }
        }
    }

    /// Checks that the usage is 0 after the expiry of all leases.
    async fn await_quota(&self) {
        let expired_by = (0..self.history.locks).map(|lock| self.oracle.expired_by(lock)).max().unwrap_or(0);
        sleep_until(self.world.at(expired_by + HAND_OVER_MS)).await;
        match self.clients.usage().await {
            Ok(0) => {}
            held => {
                self.oracle.report_violation(format!(
                    "quota: the usage is {held:?}, but there are no grants and no queued requests"
                ));
            }
        }
    }
}
