//! What lies between the servers and around them: the network, the store with its clock,
//! and time. Every message of every server is decided about here.

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
use lockable::store::{Clock, Connection, Embedded, Question, Reply, Script, Snapshot, StoreError, Transport};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// What the store's clock says when a history begins, in microseconds since 1970.
const EPOCH_US: u64 = 1_900_000_000_000_000;

/// How messages fare in a history, as chances.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// A message takes up to 450 ms.
    pub late: f64,
    /// A command is lost before it has run, or its answer after.
    pub lost: f64,
    pub unanswered: f64,
    pub unpublished: f64,
    pub sql_late: f64,
    pub sql_unanswered: f64,
}

pub struct World {
    begun: Instant,
    pub store: Arc<Embedded>,
    time: Arc<AtomicU64>,
    state: Mutex<State>,
    steps: AtomicU64,
}

pub struct State {
    rng: fastrand::Rng,
    weather: Weather,
    identity: Identity,
    is_up: bool,
    offset_us: i64,
    said: (u64, u64),
    frozen_until: Option<Instant>,
    mark: Option<Snapshot>,
    connections: Vec<(usize, Connection)>,
    links: Vec<LinkState>,
    pub sql: SqlState,
    trace: Option<Vec<String>>,
    hash: DefaultHasher,
}

#[derive(Clone, Copy, Default)]
struct Identity {
    run: u64,
    history: u64,
    goes_on: bool,
}

/// How the network treats one server.
#[derive(Clone, Copy, Default)]
struct LinkState {
    deaf_until: Option<Instant>,
    slow_until: Option<Instant>,
    most_ms: u64,
}

#[derive(Clone, Copy, Default)]
pub struct SqlState {
    pub gone_until: Option<Instant>,
    pub slow_until: Option<Instant>,
    pub frozen_until: Option<Instant>,
    pub mute_until: Option<Instant>,
}

/// What becomes of a message and its answer.
struct Fate {
    there: Duration,
    back: Duration,
    is_lost: bool,
    is_unanswered: bool,
    /// It is carried out although the connection was cut when it was on its way.
    outlives_cut: bool,
}

enum Asked {
    Identity,
    Time,
    Run(&'static Script, Vec<String>, Vec<String>),
}

/// The store's clock, which is the world's to set.
pub struct WorldClock(pub Arc<AtomicU64>);

impl Clock for WorldClock {
    fn now_us(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

thread_local! {
    /// Scripts are compiled once a thread.
    static STORE: (Arc<Embedded>, Arc<AtomicU64>) = {
        let time = Arc::new(AtomicU64::new(EPOCH_US));
        (Arc::new(Embedded::new(WorldClock(time.clone())).unwrap()), time)
    };
}

pub fn is_until(until: Option<Instant>) -> bool {
    until.is_some_and(|until| until > Instant::now())
}

impl World {
    pub fn new(seed: u64, servers: usize, weather: Weather, is_traced: bool) -> Arc<Self> {
        let (store, time) = STORE.with(Clone::clone);
        store.drop_subscribers();
        store.replace(&Snapshot::default());
        let state = State {
            rng: fastrand::Rng::with_seed(seed ^ 0x5eed),
            weather,
            identity: Identity { run: 1, history: 1, goes_on: false },
            is_up: true,
            offset_us: 0,
            said: (0, 0),
            frozen_until: None,
            mark: None,
            connections: Vec::new(),
            links: vec![LinkState::default(); servers],
            sql: SqlState::default(),
            trace: is_traced.then(Vec::new),
            hash: DefaultHasher::new(),
        };
        let begun = Instant::now();
        Arc::new(Self { begun, store, time, state: Mutex::new(state), steps: AtomicU64::new(0) })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Milliseconds since the history began, by the only clock that is right.
    pub fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    pub fn at(&self, ms: u64) -> Instant {
        self.begun + Duration::from_millis(ms)
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes an event, for the trace and for the comparison of two runs.
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
        let us = (EPOCH_US + self.begun.elapsed().as_micros() as u64).saturating_add_signed(state.offset_us);
        // Timers are as fine as a millisecond; commands take some microseconds each.
        state.said = if state.said.0 == us { (us, state.said.1 + 3) } else { (us, 0) };
        us + state.said.1
    }

    fn fate(&self, server: usize) -> Fate {
        let mut state = self.state();
        let State { rng, weather, links, .. } = &mut *state;
        let link = links[server];
        let slow = is_until(link.slow_until);
        let delay = |rng: &mut fastrand::Rng| {
            let ms = match () {
                () if slow => rng.u64(..link.most_ms),
                () if weather.late > 0.0 && rng.f64() < weather.late => rng.u64(0..450),
                () => rng.u64(0..3),
            };
            Duration::from_millis(ms)
        };
        let (there, back) = (delay(rng), delay(rng));
        let is_deaf = is_until(link.deaf_until);
        let is_lost = is_deaf || weather.lost > 0.0 && rng.f64() < weather.lost;
        let is_unanswered = weather.unanswered > 0.0 && rng.f64() < weather.unanswered;
        Fate { there, back, is_lost, is_unanswered, outlives_cut: rng.bool() }
    }

    async fn ask(self: Arc<Self>, server: usize, broken: CancellationToken, asked: Asked) -> Result<Reply, StoreError> {
        self.step();
        let fate = self.fate(server);
        if fate.is_lost {
            self.note((server, "lost"), || format!("s{server} -> store: {} (lost)", asked.name()));
            broken.cancelled().await;
            return Err(StoreError::NoAnswer("the connection was cut".into()));
        }
        let (sender, receiver) = oneshot::channel();
        let (cut, world) = (broken.clone(), self.clone());
        tokio::spawn(async move {
            sleep(fate.there).await;
            world.thawed().await;
            if !world.state().is_up || cut.is_cancelled() && !fate.outlives_cut {
                return;
            }
            world.step();
            let reply = world.carry_out(&asked);
            world.note((server, asked.name(), reply.as_ref().map_or("", |reply| reply.status())), || {
                let reply = reply.as_ref().map_or_else(ToString::to_string, |reply| format!("{reply:?}"));
                let lost = if fate.is_unanswered { " (answer lost)" } else { "" };
                format!("s{server} -> store: {} -> {reply}{lost}", asked.text())
            });
            sleep(fate.back).await;
            if fate.is_unanswered || world.is_deaf(server) {
                cut.cancelled().await;
            }
            let _ = sender.send(reply);
        });
        tokio::select! {
            biased;
            () = broken.cancelled() => Err(StoreError::NoAnswer("the connection was cut".into())),
            reply = receiver => reply.unwrap_or_else(|_| Err(StoreError::NoAnswer("the store has gone".into()))),
        }
    }

    fn is_deaf(&self, server: usize) -> bool {
        is_until(self.state().links[server].deaf_until)
    }

    fn carry_out(&self, asked: &Asked) -> Result<Reply, StoreError> {
        self.time.store(self.store_us(), Ordering::Relaxed);
        match asked {
            Asked::Identity => {
                let identity = self.state().identity;
                let (run, history) = (identity.run.to_string(), identity.history.to_string());
                Ok([&*run, &*history, if identity.goes_on { "1" } else { "" }].into_iter().collect())
            }
            Asked::Time => Ok([&*self.time.load(Ordering::Relaxed).to_string()].into_iter().collect()),
            Asked::Run(script, keys, args) => {
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                self.store.run(script, &keys, &args)
            }
        }
    }

    /// Waits until the store does not stand still.
    async fn thawed(&self) {
        loop {
            let until = self.state().frozen_until;
            match until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }
}

/// What happens to the store and to the network.
impl World {
    pub fn cut(&self, server: Option<usize>) {
        let mut state = self.state();
        state.connections.retain(|(of, connection)| {
            let is_cut = server.is_none_or(|server| server == *of);
            if is_cut {
                connection.broken.cancel();
            }
            !is_cut && !connection.broken.is_cancelled()
        });
    }

    pub fn deafen(&self, server: usize, ms: u64) {
        self.state().links[server].deaf_until = Some(Instant::now() + Duration::from_millis(ms));
    }

    pub fn slow_down(&self, server: usize, ms: u64, most_ms: u64) {
        let mut state = self.state();
        state.links[server].slow_until = Some(Instant::now() + Duration::from_millis(ms));
        state.links[server].most_ms = most_ms;
    }

    pub fn freeze(&self, ms: u64) {
        self.state().frozen_until = Some(Instant::now() + Duration::from_millis(ms));
    }

    pub fn leap(&self, ms: i64) {
        self.state().offset_us += ms * 1000;
    }

    /// What is stored now is all that a loss will leave.
    pub fn mark(&self) {
        self.time.store(self.store_us(), Ordering::Relaxed);
        let snapshot = self.store.snapshot();
        self.state().mark = Some(snapshot);
    }

    pub fn empty(&self) {
        self.store.replace(&Snapshot::default());
    }

    pub fn crash(&self) {
        self.state().is_up = false;
        self.cut(None);
    }

    pub fn is_up(&self) -> bool {
        self.state().is_up
    }

    /// The store is there again, as another process: with what it had at the mark, or all.
    pub fn start_store(&self, is_cut_back: bool, is_promoted: bool) {
        let mark = self.state().mark.take();
        if let Some(mark) = mark.filter(|_| is_cut_back) {
            self.store.replace(&mark);
        }
        let mut state = self.state();
        state.is_up = true;
        state.identity.run += 1;
        state.identity.history += 1;
        state.identity.goes_on = is_promoted;
    }

    /// All is well from now on.
    pub fn heal(&self) {
        let mut state = self.state();
        state.weather = Weather::default();
        state.frozen_until = None;
        state.sql = SqlState::default();
        state.links.fill(LinkState::default());
    }

    /// How long an SQL statement takes there and back, and whether its answer is lost.
    pub fn sql_fate(&self) -> (Duration, Duration, bool) {
        let mut state = self.state();
        let State { rng, weather, sql, .. } = &mut *state;
        let slow = is_until(sql.slow_until);
        let delay = |rng: &mut fastrand::Rng| {
            let ms = match () {
                () if slow => rng.u64(0..3500),
                () if weather.sql_late > 0.0 && rng.f64() < weather.sql_late => rng.u64(0..1500),
                () => rng.u64(0..4),
            };
            Duration::from_millis(ms)
        };
        let (there, back) = (delay(rng), delay(rng));
        let is_mute = is_until(sql.mute_until) || weather.sql_unanswered > 0.0 && rng.f64() < weather.sql_unanswered;
        (there, back, is_mute)
    }
}

impl Asked {
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

/// One server's way to the store.
pub struct Way {
    pub world: Arc<World>,
    pub server: usize,
}

impl Transport for Way {
    fn connect(&self) -> BoxFuture<'static, Result<Connection, StoreError>> {
        let (world, server) = (self.world.clone(), self.server);
        async move {
            world.step();
            let fate = world.fate(server);
            sleep(fate.there).await;
            if fate.is_lost || is_until(world.state().frozen_until) {
                std::future::pending::<()>().await;
            }
            let mut state = world.state();
            if !state.is_up {
                return Err(StoreError::NotSent("nobody listens".into()));
            }
            let connection = Connection { number: 0, broken: CancellationToken::new() };
            state.connections.push((server, connection.clone()));
            Ok(connection)
        }
        .boxed()
    }

    fn ask(&self, connection: &Connection, question: Question<'_>) -> BoxFuture<'static, Result<Reply, StoreError>> {
        let asked = match question {
            Question::Identity => Asked::Identity,
            Question::Time => Asked::Time,
            Question::Run { script, keys, args } => {
                let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
                Asked::Run(script, words(keys), words(args))
            }
        };
        self.world.clone().ask(self.server, connection.broken.clone(), asked).boxed()
    }

    fn subscribe(&self, channel: &str) -> mpsc::Receiver<String> {
        let mut published = self.world.store.subscribe(channel);
        let (sender, receiver) = mpsc::channel(64);
        let (world, server) = (self.world.clone(), self.server);
        tokio::spawn(async move {
            while let Some(message) = published.recv().await {
                let fate = world.fate(server);
                let is_lost = {
                    let mut state = world.state();
                    let unpublished = state.weather.unpublished;
                    unpublished > 0.0 && state.rng.f64() < unpublished
                };
                if is_lost || fate.is_lost {
                    continue;
                }
                sleep(fate.there).await;
                let _ = sender.try_send(message);
            }
        });
        receiver
    }
}
