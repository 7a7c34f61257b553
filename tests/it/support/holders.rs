use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::timeout};

use super::{
    Answer, Client,
    history::{History, Stint},
};

/// Clients that acquire, keep and release locks, and write down what they rely
/// on.
pub struct Holders {
    pub history: History,
    pub tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What they want.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// How many there are.
    pub holders: usize,
    /// How many locks they share.
    pub names: usize,
    pub lease: Duration,
    /// For how long a lock is kept, at most.
    pub kept: Duration,
    /// How long they stand in line for it.
    pub wait: Duration,
    pub seed: u64,
    /// What the names of holders and of locks begin with.
    pub prefix: &'static str,
}

/// What they were answered.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub granted: u64,
    pub refused: u64,
    pub recovering: u64,
    /// 503.
    pub unavailable: u64,
    /// No answer at all.
    pub failed: u64,
    /// What no client should have to understand.
    pub odd: Vec<String>,
    /// The longest that any answer took, apart from what was waited for.
    pub slowest: Duration,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            holders: 20,
            names: 5,
            lease: Duration::from_secs(1),
            kept: Duration::from_millis(500),
            wait: Duration::ZERO,
            seed: 1,
            prefix: "any",
        }
    }
}

impl Holders {
    /// Starts them, by turns on these servers.
    pub fn start(clients: &[Client], wanted: &Wanted) -> Self {
        let (history, tally) = (History::default(), Arc::new(Mutex::new(Tally::default())));
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..wanted.holders).map(|number| {
            let holder = Holder {
                client: clients[number % clients.len()].clone(),
                owner: format!("{}-holder-{number}", wanted.prefix),
                random: fastrand::Rng::with_seed(wanted.seed.wrapping_mul(1_000_003) + number as u64),
                wanted: wanted.clone(),
                history: history.clone(),
                tally: tally.clone(),
                stop: stop.clone(),
            };
            tokio::spawn(holder.run())
        });
        Self { tasks: tasks.collect(), history, tally, stop }
    }

    /// How many grants there were so far.
    pub fn granted(&self) -> u64 {
        self.tally.lock().unwrap().granted
    }

    /// Lets them end, whatever they have seen.
    pub async fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
    }

    /// Lets them end, and checks that all was well but for what was to be
    /// expected: no two at once, fences rise, answers come in time.
    pub async fn stop(mut self) -> Tally {
        self.end().await;
        self.history.assert_sound();
        let tally = self.tally.lock().unwrap().clone();
        assert!(tally.odd.is_empty(), "{:?}", tally.odd);
        tally
    }
}

struct Holder {
    client: Client,
    owner: String,
    random: fastrand::Rng,
    wanted: Wanted,
    history: History,
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
}

impl Holder {
    /// How long any answer may take, however broken the network is.
    const ANSWER_MAX: Duration = Duration::from_secs(10);

    async fn run(mut self) {
        let mut name = String::new();
        while !self.stop.load(Ordering::SeqCst) {
            // Who stands in line keeps a place for a while, and would hold everybody
            // up behind it, asking for another lock.
            if self.wanted.wait.is_zero() || name.is_empty() {
                name = format!("{}-lock-{}", self.wanted.prefix, self.random.usize(..self.wanted.names));
            }
            if let Some(stint) = self.acquire(&name).await {
                let stint = self.keep(stint).await;
                self.history.add(stint);
                name.clear();
            } else {
                tokio::time::sleep(Duration::from_millis(self.random.u64(5..50))).await;
            }
        }
    }

    async fn acquire(&mut self, name: &str) -> Option<Stint> {
        let (lease, wait) = (self.wanted.lease.as_millis(), self.wanted.wait);
        let path = format!("/v1/acquire/{name}?owner={}&lease={lease}ms&wait={}ms", self.owner, wait.as_millis());
        let asked = Instant::now();
        let answer = self.ask(&path, wait).await?;
        let from = Instant::now();
        let mut tally = self.tally.lock().unwrap();
        if answer.json["response"] == true {
            tally.granted += 1;
            let fence = answer.json["fencing_token"].as_u64().unwrap();
            let until = asked + self.wanted.lease;
            // What was waited for counts from when it was handed over, which is
            // not before it was asked for; the first heartbeat says more.
            return Some(Stint { name: name.into(), holder: self.owner.clone(), fence, asked, from, until });
        }
        match answer.json["reason"].as_str() {
            Some("recovering") => tally.recovering += 1,
            _ => tally.refused += 1,
        }
        None
    }

    /// Relies on the lock for a while, and releases it.
    async fn keep(&mut self, mut stint: Stint) -> Stint {
        let ends = Instant::now() + self.wanted.kept.mul_f64(self.random.f64());
        let Stint { name, fence, .. } = stint.clone();
        let (owner, lease) = (self.owner.clone(), self.wanted.lease.as_millis());
        while Instant::now() < ends.min(stint.until) {
            let pause = (self.wanted.lease / 3).min(ends.saturating_duration_since(Instant::now()));
            tokio::time::sleep(pause).await;
            let sent = Instant::now();
            let path = format!("/v1/heartbeat/{name}?owner={owner}&lease={lease}ms&fencing_token={fence}");
            let Some(answer) = self.ask(&path, Duration::ZERO).await else { continue };
            if answer.json["response"] == true {
                let promised = Duration::from_millis(answer.json["lease_ms"].as_u64().unwrap());
                stint.until = stint.until.max(sent + promised);
            } else {
                stint.until = stint.until.min(Instant::now());
                return stint;
            }
        }
        stint.until = stint.until.min(Instant::now());
        self.ask(&format!("/v1/release/{name}?owner={owner}&fencing_token={fence}"), Duration::ZERO).await;
        stint
    }

    /// Asks; nothing when there was no answer that says yes or no.
    async fn ask(&mut self, path: &str, wait: Duration) -> Option<Answer> {
        let asked = Instant::now();
        let answer = timeout(wait + Self::ANSWER_MAX, self.client.try_get(path)).await;
        let took = asked.elapsed().saturating_sub(wait);
        let mut tally = self.tally.lock().unwrap();
        tally.slowest = tally.slowest.max(took);
        match answer {
            Ok(Some(answer)) if answer.status == 200 => return Some(answer),
            Ok(Some(answer)) if answer.status == 503 => tally.unavailable += 1,
            Ok(Some(answer)) => tally.odd.push(format!("{path}: {} {}", answer.status, answer.text)),
            Ok(None) => tally.failed += 1,
            Err(_) => tally.odd.push(format!("{path}: no answer in time")),
        }
        None
    }
}
