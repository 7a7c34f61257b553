//! The environment of the servers: the network, the store with its clock, and time. It decides
//! about the delivery of every message of every server.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use lockable::store::{
    Clock, Embedded, Reply, Script, SimulatedConnection, Snapshot, StoreError, StoreRequest, Transport,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// The store's time at the beginning of a history, in microseconds since 1970.
const EPOCH_US: u64 = 1_900_000_000_000_000;

/// The probabilities of message faults in a history.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageFaults {
    /// A message is delayed by up to 450 ms.
    pub late: f64,
    /// A command is lost before its execution.
    pub lost: f64,
    /// The answer is lost after the execution.
    pub unanswered: f64,
    /// A published message is lost.
    pub unpublished: f64,
    pub sql_late: f64,
    pub sql_unanswered: f64,
}

pub struct World {
    began_at: Instant,
    pub store: Arc<Embedded>,
    time: Arc<AtomicU64>,
    state: Mutex<State>,
    steps: AtomicU64,
}

pub struct State {
    rng: fastrand::Rng,
    message_faults: MessageFaults,
    identity: Identity,
    is_up: bool,
    offset_us: i64,
    last_read: (u64, u64),
    frozen_until: Option<Instant>,
    snapshot: Option<Snapshot>,
    connections: Vec<(usize, SimulatedConnection)>,
    links: Vec<LinkState>,
    pub sql: SqlState,
    trace: Option<Vec<String>>,
    hash: DefaultHasher,
}

#[derive(Clone, Copy, Default)]
struct Identity {
    run: u64,
    history: u64,
    is_promoted: bool,
}

/// The faults of one server's network.
#[derive(Clone, Copy, Default)]
struct LinkState {
    partitioned_until: Option<Instant>,
    slow_until: Option<Instant>,
    max_delay_ms: u64,
}

#[derive(Clone, Copy, Default)]
pub struct SqlState {
    pub down_until: Option<Instant>,
    pub slow_until: Option<Instant>,
    pub frozen_until: Option<Instant>,
    pub unanswered_until: Option<Instant>,
}

/// The delivery of a command and its answer.
struct Delivery {
    request_delay: Duration,
    response_delay: Duration,
    is_lost: bool,
    is_unanswered: bool,
    /// The command is executed even if the connection closes before it arrives.
    survives_disconnect: bool,
}

enum StoreCall {
    Identity,
    Time,
    Run(&'static Script, Vec<String>, Vec<String>),
}

/// The store's clock, which the world sets.
pub struct WorldClock(pub Arc<AtomicU64>);

impl Clock for WorldClock {
    fn now_us(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

thread_local! {
    /// One store per thread, so that scripts are compiled once.
    static STORE: (Arc<Embedded>, Arc<AtomicU64>) = {
        let time = Arc::new(AtomicU64::new(EPOCH_US));
        (Arc::new(Embedded::new(WorldClock(time.clone())).unwrap()), time)
    };
}

pub fn is_until(until: Option<Instant>) -> bool {
    until.is_some_and(|until| until > Instant::now())
}

impl World {
    pub fn new(seed: u64, servers: usize, message_faults: MessageFaults, is_traced: bool) -> Arc<Self> {
        let (store, time) = STORE.with(Clone::clone);
        store.drop_subscribers();
        store.replace(&Snapshot::default());
        let state = State {
            rng: fastrand::Rng::with_seed(seed ^ 0x5eed),
            message_faults,
            identity: Identity { run: 1, history: 1, is_promoted: false },
            is_up: true,
            offset_us: 0,
            last_read: (0, 0),
            frozen_until: None,
            snapshot: None,
            connections: Vec::new(),
            links: vec![LinkState::default(); servers],
            sql: SqlState::default(),
            trace: is_traced.then(Vec::new),
            hash: DefaultHasher::new(),
        };
        let began_at = Instant::now();
        Arc::new(Self { began_at, store, time, state: Mutex::new(state), steps: AtomicU64::new(0) })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Milliseconds since the beginning of the history, by a correct clock.
    pub fn now_ms(&self) -> u64 {
        self.began_at.elapsed().as_millis() as u64
    }

    pub fn at(&self, ms: u64) -> Instant {
        self.began_at + Duration::from_millis(ms)
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Records an event in the trace and in the digest, by which two runs are compared.
    pub fn note(&self, key: impl Hash, text: impl FnOnce() -> String) {
        let now_ms = self.now_ms();
        let mut state = self.state();
        (now_ms, key).hash(&mut state.hash);
        if let Some(trace) = &mut state.trace {
            trace.push(format!("{:>7.3} {}", now_ms as f64 / 1e3, text()));
        }
    }

    pub fn digest(&self) -> u64 {
        self.state().hash.finish()
    }

    pub fn trace(&self) -> Vec<String> {
        self.state().trace.take().unwrap_or_default()
    }

    pub fn draw(&self, until: u64) -> u64 {
        self.state().rng.u64(..until.max(1))
    }

    /// The store's time.
    pub fn store_us(&self) -> u64 {
        let mut state = self.state();
        let us = (EPOCH_US + self.began_at.elapsed().as_micros() as u64).saturating_add_signed(state.offset_us);
        // Timers have a resolution of a millisecond; each command takes 3 µs within it.
        state.last_read = if state.last_read.0 == us { (us, state.last_read.1 + 3) } else { (us, 0) };
        us + state.last_read.1
    }

    fn delivery(&self, server: usize) -> Delivery {
        let mut state = self.state();
        let State { rng, message_faults, links, .. } = &mut *state;
        let link = links[server];
        let slow = is_until(link.slow_until);
        let delay = |rng: &mut fastrand::Rng| {
            let ms = match () {
                () if slow => rng.u64(..link.max_delay_ms),
                () if message_faults.late > 0.0 && rng.f64() < message_faults.late => rng.u64(0..450),
                () => rng.u64(0..3),
            };
            Duration::from_millis(ms)
        };
        let (request_delay, response_delay) = (delay(rng), delay(rng));
        let is_partitioned = is_until(link.partitioned_until);
        let is_lost = is_partitioned || message_faults.lost > 0.0 && rng.f64() < message_faults.lost;
        let is_unanswered = message_faults.unanswered > 0.0 && rng.f64() < message_faults.unanswered;
        Delivery { request_delay, response_delay, is_lost, is_unanswered, survives_disconnect: rng.bool() }
    }

    async fn call(
        self: Arc<Self>,
        server: usize,
        broken: CancellationToken,
        call: StoreCall,
    ) -> Result<Reply, StoreError> {
        self.step();
        let delivery = self.delivery(server);
        if delivery.is_lost {
            self.note((server, "lost"), || format!("s{server} -> store: {} (lost)", call.name()));
            broken.cancelled().await;
            return Err(StoreError::NoAnswer("the connection was closed".into()));
        }
        let (sender, receiver) = oneshot::channel();
        let (closed, world) = (broken.clone(), self.clone());
        tokio::spawn(async move {
            sleep(delivery.request_delay).await;
            world.wait_until_unfrozen().await;
            if !world.state().is_up || closed.is_cancelled() && !delivery.survives_disconnect {
                return;
            }
            world.step();
            let reply = world.execute(&call);
            world.note((server, call.name(), reply.as_ref().map_or("", |reply| reply.status())), || {
                let reply = reply.as_ref().map_or_else(ToString::to_string, |reply| format!("{reply:?}"));
                let lost = if delivery.is_unanswered { " (answer lost)" } else { "" };
                format!("s{server} -> store: {} -> {reply}{lost}", call.text())
            });
            sleep(delivery.response_delay).await;
            if delivery.is_unanswered || world.is_partitioned(server) {
                closed.cancelled().await;
            }
            let _ = sender.send(reply);
        });
        tokio::select! {
            biased;
            () = broken.cancelled() => Err(StoreError::NoAnswer("the connection was closed".into())),
            reply = receiver => reply.unwrap_or_else(|_| Err(StoreError::NoAnswer("the store has stopped".into()))),
        }
    }

    fn is_partitioned(&self, server: usize) -> bool {
        is_until(self.state().links[server].partitioned_until)
    }

    fn execute(&self, call: &StoreCall) -> Result<Reply, StoreError> {
        self.time.store(self.store_us(), Ordering::Relaxed);
        match call {
            StoreCall::Identity => {
                let identity = self.state().identity;
                let (run, history) = (identity.run.to_string(), identity.history.to_string());
                Ok([&*run, &*history, if identity.is_promoted { "1" } else { "" }].into_iter().collect())
            }
            StoreCall::Time => Ok([&*self.time.load(Ordering::Relaxed).to_string()].into_iter().collect()),
            StoreCall::Run(script, keys, args) => {
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                self.store.eval(script, &keys, &args)
            }
        }
    }

    /// Waits until the store is not suspended.
    async fn wait_until_unfrozen(&self) {
        loop {
            let until = self.state().frozen_until;
            match until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }
}

/// Faults of the store and the network.
impl World {
    pub fn disconnect(&self, server: Option<usize>) {
        let mut state = self.state();
        state.connections.retain(|(of, connection)| {
            let is_closed = server.is_none_or(|server| server == *of);
            if is_closed {
                connection.broken.cancel();
            }
            !is_closed && !connection.broken.is_cancelled()
        });
    }

    pub fn partition(&self, server: usize, ms: u64) {
        self.state().links[server].partitioned_until = Some(Instant::now() + Duration::from_millis(ms));
    }

    pub fn slow_down(&self, server: usize, ms: u64, max_delay_ms: u64) {
        let mut state = self.state();
        state.links[server].slow_until = Some(Instant::now() + Duration::from_millis(ms));
        state.links[server].max_delay_ms = max_delay_ms;
    }

    pub fn freeze(&self, ms: u64) {
        self.state().frozen_until = Some(Instant::now() + Duration::from_millis(ms));
    }

    pub fn jump_clock(&self, ms: i64) {
        self.state().offset_us += ms * 1000;
    }

    /// Takes the snapshot that the store restores when it restarts with lost writes.
    pub fn take_snapshot(&self) {
        self.time.store(self.store_us(), Ordering::Relaxed);
        let snapshot = self.store.snapshot();
        self.state().snapshot = Some(snapshot);
    }

    pub fn flush(&self) {
        self.store.replace(&Snapshot::default());
    }

    pub fn crash(&self) {
        self.state().is_up = false;
        self.disconnect(None);
    }

    pub fn is_up(&self) -> bool {
        self.state().is_up
    }

    /// Restarts the store as another process, with its snapshot or all its data.
    pub fn start_store(&self, is_rolled_back: bool, is_promoted: bool) {
        let snapshot = self.state().snapshot.take();
        if let Some(snapshot) = snapshot.filter(|_| is_rolled_back) {
            self.store.replace(&snapshot);
        }
        let mut state = self.state();
        state.is_up = true;
        state.identity.run += 1;
        state.identity.history += 1;
        state.identity.is_promoted = is_promoted;
    }

    /// Ends all faults.
    pub fn end_faults(&self) {
        let mut state = self.state();
        state.message_faults = MessageFaults::default();
        state.frozen_until = None;
        state.sql = SqlState::default();
        state.links.fill(LinkState::default());
    }

    /// The delays of an SQL statement and its answer, and whether the answer is lost.
    pub fn sql_delivery(&self) -> (Duration, Duration, bool) {
        let mut state = self.state();
        let State { rng, message_faults, sql, .. } = &mut *state;
        let slow = is_until(sql.slow_until);
        let delay = |rng: &mut fastrand::Rng| {
            let ms = match () {
                () if slow => rng.u64(0..3500),
                () if message_faults.sql_late > 0.0 && rng.f64() < message_faults.sql_late => rng.u64(0..1500),
                () => rng.u64(0..4),
            };
            Duration::from_millis(ms)
        };
        let (request_delay, response_delay) = (delay(rng), delay(rng));
        let is_unanswered = is_until(sql.unanswered_until)
            || message_faults.sql_unanswered > 0.0 && rng.f64() < message_faults.sql_unanswered;
        (request_delay, response_delay, is_unanswered)
    }
}

impl StoreCall {
    fn name(&self) -> &'static str {
        match self {
            Self::Identity => "INFO",
            Self::Time => "TIME",
            Self::Run(script, ..) => script.name,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Run(script, _, args) => format!("{} {args:?}", script.name),
            other => other.name().to_owned(),
        }
    }
}

/// One server's client of the store.
pub struct StoreClient {
    pub world: Arc<World>,
    pub server: usize,
}

impl Transport for StoreClient {
    fn connect(&self) -> BoxFuture<'static, Result<SimulatedConnection, StoreError>> {
        let (world, server) = (self.world.clone(), self.server);
        async move {
            world.step();
            let delivery = world.delivery(server);
            sleep(delivery.request_delay).await;
            if delivery.is_lost || is_until(world.state().frozen_until) {
                std::future::pending::<()>().await;
            }
            let mut state = world.state();
            if !state.is_up {
                return Err(StoreError::NotSent("connection refused".into()));
            }
            let connection = SimulatedConnection { number: 0, broken: CancellationToken::new() };
            state.connections.push((server, connection.clone()));
            Ok(connection)
        }
        .boxed()
    }

    fn send(
        &self,
        connection: &SimulatedConnection,
        request: StoreRequest<'_>,
    ) -> BoxFuture<'static, Result<Reply, StoreError>> {
        let call = match request {
            StoreRequest::Identity => StoreCall::Identity,
            StoreRequest::Time => StoreCall::Time,
            StoreRequest::Eval { script, keys, args } => {
                let owned = |owned: &[&str]| owned.iter().map(|text| (*text).to_owned()).collect();
                StoreCall::Run(script, owned(keys), owned(args))
            }
        };
        self.world.clone().call(self.server, connection.broken.clone(), call).boxed()
    }

    fn subscribe(&self, channel: &str) -> mpsc::Receiver<String> {
        let mut published = self.world.store.subscribe(channel);
        let (sender, receiver) = mpsc::channel(64);
        let (world, server) = (self.world.clone(), self.server);
        tokio::spawn(async move {
            while let Some(message) = published.recv().await {
                let delivery = world.delivery(server);
                let is_lost = {
                    let mut state = world.state();
                    let unpublished = state.message_faults.unpublished;
                    unpublished > 0.0 && state.rng.f64() < unpublished
                };
                if is_lost || delivery.is_lost {
                    continue;
                }
                sleep(delivery.request_delay).await;
                let _ = sender.try_send(message);
            }
        });
        receiver
    }
}
