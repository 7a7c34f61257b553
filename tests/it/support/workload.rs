use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::timeout};

use super::{
    Client, Response,
    history::{History, HoldPeriod},
};

/// Clients that acquire, renew and release locks, and record the periods in which they rely on a
/// grant.
pub struct Workload {
    pub history: History,
    pub tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// The shape of the load.
#[derive(Clone, Debug)]
pub struct WorkloadConfig {
    /// The number of clients.
    pub holders: usize,
    /// The number of locks that they share.
    pub names: usize,
    pub lease: Duration,
    /// The maximum time for which a client holds a lock.
    pub hold_max: Duration,
    /// The `wait` parameter of each acquire.
    pub wait: Duration,
    pub seed: u64,
    /// The prefix of owner names and lock names.
    pub prefix: &'static str,
}

/// Counts of the responses.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub granted: u64,
    pub refused: u64,
    pub recovering: u64,
    /// Responses with status 503.
    pub unavailable: u64,
    /// Requests without a response.
    pub failed: u64,
    /// Responses that no client should receive.
    pub unexpected: Vec<String>,
    /// The longest response time, without the requested wait.
    pub slowest: Duration,
}

impl Default for WorkloadConfig {
    fn default() -> Self {
        Self {
            holders: 20,
            names: 5,
            lease: Duration::from_secs(1),
            hold_max: Duration::from_millis(500),
            wait: Duration::ZERO,
            seed: 1,
            prefix: "any",
        }
    }
}

impl Workload {
    /// Starts the clients, distributed over these servers round-robin.
    pub fn start(clients: &[Client], config: &WorkloadConfig) -> Self {
        let (history, tally) = (History::default(), Arc::new(Mutex::new(Tally::default())));
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..config.holders).map(|number| {
            let holder = HolderTask {
                client: clients[number % clients.len()].clone(),
                owner: format!("{}-holder-{number}", config.prefix),
                random: fastrand::Rng::with_seed(config.seed.wrapping_mul(1_000_003) + number as u64),
                config: config.clone(),
                history: history.clone(),
                tally: tally.clone(),
                stop: stop.clone(),
            };
            tokio::spawn(holder.run())
        });
        Self { tasks: tasks.collect(), history, tally, stop }
    }

    /// Returns the number of grants so far.
    pub fn granted(&self) -> u64 {
        self.tally.lock().unwrap().granted
    }

    /// Stops all clients without checking anything.
    pub async fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
    }

    /// Stops all clients. Asserts that no two held a lock at once, that fences increased, and that
    /// every response was valid and in time.
    pub async fn stop(mut self) -> Tally {
        self.end().await;
        self.history.assert_no_violation();
        let tally = self.tally.lock().unwrap().clone();
        assert!(tally.unexpected.is_empty(), "{:?}", tally.unexpected);
        tally
    }
}

struct HolderTask {
    client: Client,
    owner: String,
    random: fastrand::Rng,
    config: WorkloadConfig,
    history: History,
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
}

impl HolderTask {
    /// The maximum response time, however broken the network is.
    const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

    async fn run(mut self) {
        let mut name = String::new();
        while !self.stop.load(Ordering::SeqCst) {
            // An owner that stops waiting keeps a reservation for a while. Acquire the same lock
            // again, because changing locks would leave reservations in front of other clients.
            if self.config.wait.is_zero() || name.is_empty() {
                name = format!("{}-lock-{}", self.config.prefix, self.random.usize(..self.config.names));
            }
            if let Some(period) = self.acquire(&name).await {
                let period = self.hold(period).await;
                self.history.add(period);
                name.clear();
            } else {
                tokio::time::sleep(Duration::from_millis(self.random.u64(5..50))).await;
            }
        }
    }

    async fn acquire(&mut self, name: &str) -> Option<HoldPeriod> {
        let (lease, wait) = (self.config.lease.as_millis(), self.config.wait);
        let path = format!("/v1/acquire/{name}?owner={}&lease={lease}ms&wait={}ms", self.owner, wait.as_millis());
        let sent = Instant::now();
        let answer = self.send(&path, wait).await?;
        let from = Instant::now();
        let mut tally = self.tally.lock().unwrap();
        if answer.json["response"] == true {
            tally.granted += 1;
            let fence = answer.json["fencing_token"].as_u64().unwrap();
            let until = sent + self.config.lease;
            // The lease of a queued request starts at the hand-over, which is not before the
            // acquire was sent. This bound is therefore safe; the first heartbeat extends it.
            return Some(HoldPeriod { name: name.into(), holder: self.owner.clone(), fence, sent, from, until });
        }
        match answer.json["reason"].as_str() {
            Some("recovering") => tally.recovering += 1,
            _ => tally.refused += 1,
        }
        None
    }

    /// Relies on the lock for a random time, then releases it.
    async fn hold(&mut self, mut period: HoldPeriod) -> HoldPeriod {
        let ends = Instant::now() + self.config.hold_max.mul_f64(self.random.f64());
        let HoldPeriod { name, fence, .. } = period.clone();
        let (owner, lease) = (self.owner.clone(), self.config.lease.as_millis());
        while Instant::now() < ends.min(period.until) {
            let pause = (self.config.lease / 3).min(ends.saturating_duration_since(Instant::now()));
            tokio::time::sleep(pause).await;
            let sent = Instant::now();
            let path = format!("/v1/heartbeat/{name}?owner={owner}&lease={lease}ms&fencing_token={fence}");
            let Some(answer) = self.send(&path, Duration::ZERO).await else { continue };
            if answer.json["response"] == true {
                let promised = Duration::from_millis(answer.json["lease_ms"].as_u64().unwrap());
                period.until = period.until.max(sent + promised);
            } else {
                period.until = period.until.min(Instant::now());
                return period;
            }
        }
        period.until = period.until.min(Instant::now());
        self.send(&format!("/v1/release/{name}?owner={owner}&fencing_token={fence}"), Duration::ZERO).await;
        period
    }

    /// Sends a request. Returns `None` unless the response has status 200.
    async fn send(&mut self, path: &str, wait: Duration) -> Option<Response> {
        let sent = Instant::now();
        let answer = timeout(wait + Self::RESPONSE_TIMEOUT, self.client.try_get(path)).await;
        let took = sent.elapsed().saturating_sub(wait);
        let mut tally = self.tally.lock().unwrap();
        tally.slowest = tally.slowest.max(took);
        match answer {
            Ok(Some(answer)) if answer.status == 200 => return Some(answer),
            Ok(Some(answer)) if answer.status == 503 => tally.unavailable += 1,
            Ok(Some(answer)) => tally.unexpected.push(format!("{path}: {} {}", answer.status, answer.text)),
            Ok(None) => tally.failed += 1,
            Err(_) => tally.unexpected.push(format!("{path}: no response in time")),
        }
        None
    }
}
