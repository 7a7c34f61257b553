//! Runs one history, from its first step to the quiet after its last.

use std::{sync::Arc, time::Duration};

use lockable::{boot_time::BootTime, mends, mends::Mend};
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    client::{Clients, lock_id},
    cluster::Cluster,
    faults,
    history::{Act, FaultKind, History},
    knowledge::{ANSWER_MS, Knowledge},
    world::World,
};

/// What became of a history.
pub struct Ran {
    pub violation: Option<String>,
    pub steps: u64,
    pub digest: u64,
    pub slowest_ms: u64,
    pub simulated_ms: u64,
    pub trace: Vec<String>,
}

/// How long servers may take to end a recovery beyond the wait that is part of it: to notice
/// its beginning, to leave it to each other, and to try again.
const RECOVERY_SLACK_MS: u64 = 9000;
/// "all servers start while Redis is emptied, or it is emptied again before the recovery has
/// begun: 13 s".
const CLAIM_MS: u64 = 10_000;
/// How long a lock may be handed to waiters that have gone.
const HAND_OVER_MS: u64 = 20_000;
/// After so long without a fault the journal has recorded all ends.
const QUIET_MS: u64 = 16_000;

pub fn run(history: &History, off: Option<Mend>, is_traced: bool) -> Ran {
    mends::set_off(off);
    fastrand::seed(history.seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let ran = runtime.block_on(async {
        BootTime::simulate_from(Some(Instant::now()));
        play(history, is_traced).await
    });
    drop(runtime);
    BootTime::simulate_from(None);
    mends::set_off(None);
    ran
}

async fn play(history: &History, is_traced: bool) -> Ran {
    let world = World::new(history.seed, history.servers, history.weather, is_traced);
    let cluster = Cluster::new(world.clone(), history.servers, history.short_ms);
    let places = (0..history.locks).map(|number| lock_id(number).to_string()).collect();
    let knowledge = Knowledge::new(world.clone(), cluster.database.clone(), history, places);
    let clients = Clients::new(history, cluster.clone(), knowledge.clone());
    for server in 0..history.servers {
        cluster.start(server);
    }
    faults::spawn_all(history, &cluster, &knowledge);
    let mut requests = JoinSet::new();
    for (id, step) in history.steps.iter().enumerate() {
        sleep_until(world.at(step.at_ms)).await;
        if knowledge.violation().is_some() {
            break;
        }
        let (clients, step) = (clients.clone(), *step);
        requests.spawn(async move { clients.take(id as u64, step).await });
    }
    while requests.join_next().await.is_some() {}
    if knowledge.violation().is_none() {
        End { history, world: &world, cluster: &cluster, knowledge: &knowledge, clients: &clients, id: 1 << 32 }
            .check()
            .await;
    }
    Ran {
        violation: knowledge.violation(),
        steps: world.steps(),
        digest: world.digest(),
        slowest_ms: knowledge.slowest_ms(),
        simulated_ms: world.now_ms(),
        trace: world.trace(),
    }
}

/// What must hold once nothing goes wrong any more.
struct End<'a> {
    history: &'a History,
    world: &'a Arc<World>,
    cluster: &'a Arc<Cluster>,
    knowledge: &'a Arc<Knowledge>,
    clients: &'a Arc<Clients>,
    id: u64,
}

impl End<'_> {
    async fn check(&mut self) {
        // Faults that last longer than the requests end by themselves.
        sleep_until(self.world.at(self.history.length_ms + 1000)).await;
        self.world.heal();
        for server in 0..self.history.servers {
            self.cluster.go_on(server);
        }
        while !self.world.is_up() || (0..self.history.servers).any(|server| !self.cluster.is_there(server)) {
            sleep(Duration::from_millis(100)).await;
        }
        if self.knowledge.slowest_ms() > ANSWER_MS {
            self.knowledge.violate(format!("answer: one took {} ms", self.knowledge.slowest_ms()));
        }
        self.world.note("quiet", || "*** all is well from now on".to_owned());
        let recovered_by = self.recovered_by();
        if !self.let_go(recovered_by).await {
            return;
        }
        let is_restarted = self.world.draw(2) == 0;
        let mut recovered_by = recovered_by;
        if is_restarted {
            sleep(Duration::from_millis(QUIET_MS)).await;
            let is_whole = self.world.draw(2) == 0;
            self.world.note("restart", || format!("*** the store is restarted, with its data: {is_whole}"));
            self.world.crash();
            if !is_whole {
                self.world.empty();
            }
            self.world.start_store(false, false);
            recovered_by = self.recovered_by();
        }
        for lock in 0..self.history.locks {
            self.await_free(lock, recovered_by).await;
        }
        if self.knowledge.violation().is_none() && self.world.draw(8) == 0 {
            self.await_quota().await;
        }
    }

    /// When a recovery is over that begins now, or has begun.
    fn recovered_by(&self) -> u64 {
        let wait_ms = self.history.short_ms + 5000;
        let claim_ms = if self.may_have_to_listen() { CLAIM_MS } else { 0 };
        self.world.now_ms() + wait_ms + RECOVERY_SLACK_MS + claim_ms + self.knowledge.back_ms()
    }

    /// Whether all servers may have to do with a store that none of them has worked with.
    fn may_have_to_listen(&self) -> bool {
        let mut faults = self.history.faults.iter();
        faults.any(|fault| matches!(fault.kind, FaultKind::Empty | FaultKind::Lose { .. }))
    }

    /// Has every holder give up what it may hold.
    async fn let_go(&mut self, by: u64) -> bool {
        for lock in 0..self.history.locks {
            for holder in 0..self.history.holders.len() {
                while self.knowledge.relies(lock, holder) || self.knowledge.may_hold(lock, holder) {
                    self.id += 1;
                    if self.clients.let_go(lock, holder, self.id).await {
                        break;
                    }
                    if self.world.now_ms() > by {
                        self.knowledge.violate(format!("service: h{holder} cannot release lock {lock}"));
                        return false;
                    }
                    sleep(Duration::from_millis(500)).await;
                }
            }
        }
        true
    }

    async fn await_free(&mut self, lock: usize, recovered_by: u64) {
        // With a quota of one lock another one of the account counts, too.
        let locks = if self.history.held_max == 1 { 0..self.history.locks } else { lock..lock + 1 };
        let free_by = locks.map(|lock| self.knowledge.free_by(lock)).max().unwrap_or(0);
        let mut by = free_by.max(recovered_by);
        if self.history.steps.iter().any(|step| matches!(step.act, Act::Acquire { wait_ms: 1.., .. })) {
            by += HAND_OVER_MS;
        }
        loop {
            self.id += 1;
            match self.clients.probe(lock, self.id).await {
                Ok(fence) => return self.knowledge.probed(lock, fence),
                Err(reason) if self.world.now_ms() > by => {
                    self.knowledge.violate(format!("held by nobody: lock {lock} was to be free by {by} ms: {reason}"));
                    return;
                }
                Err(_) => sleep(Duration::from_millis(400)).await,
            }
        }
    }

    /// Once all leases have lapsed, nothing is counted.
    async fn await_quota(&self) {
        let lapsed_by = (0..self.history.locks).map(|lock| self.knowledge.lapsed_by(lock)).max().unwrap_or(0);
        sleep_until(self.world.at(lapsed_by + HAND_OVER_MS)).await;
        match self.clients.held().await {
            Ok(0) => {}
            held => {
                self.knowledge.violate(format!("quota: {held:?} locks and waiters are counted, and there are none"));
            }
        }
    }
}
