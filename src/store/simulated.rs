//! A server's way to a store about which a simulator decides: what stands for `Link` and
//! `Route` in a build with the feature `simulation`. It takes the steps that these take, in
//! their order: who the store is, its time, whether that has leapt, where the grants are,
//! and only then commands.

mod process;

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    LOOK_INTERVAL, Reply, Script, StoreError,
    clock_sample::Reading,
    key::key,
    primary::{ARRIVE, Arrival, Home},
    shards::LOCK_TAG,
    store_clock::StoreClock,
};
use crate::{
    boot_time::BootTime,
    mends::{self, Mend},
};

pub use self::process::{OnProcess, Process};

/// What comes between a server and its store.
pub trait Transport: Send + Sync + 'static {
    /// Connects to whichever store is there.
    fn connect(&self) -> BoxFuture<'static, Result<Connection, StoreError>>;

    /// Asks on a connection. Without an answer it never ends.
    fn ask(&self, connection: &Connection, question: Question<'_>) -> BoxFuture<'static, Result<Reply, StoreError>>;

    /// Listens to a channel.
    fn subscribe(&self, channel: &str) -> mpsc::Receiver<String>;
}

pub enum Question<'a> {
    /// Answered with `run_id`, history, and '1' if that goes on from another.
    Identity,
    /// Answered with microseconds since 1970.
    Time,
    Run {
        script: &'static Script,
        keys: &'a [&'a str],
        args: &'a [&'a str],
    },
}

#[derive(Clone)]
pub struct Connection {
    pub number: u64,
    /// Cancelled when it is cut.
    pub broken: CancellationToken,
}

/// The store of one simulated server.
pub struct Simulated {
    transport: Box<dyn Transport>,
    process: Arc<Process>,
    home: Home,
    clock: StoreClock,
    live: Mutex<Option<Arc<Live>>>,
    connected: Notify,
    pauses: Mutex<fastrand::Rng>,
}

struct Live {
    connection: Connection,
    identity: Mutex<Identity>,
    slow_in_a_row: AtomicU32,
}

#[derive(Clone, PartialEq, Eq)]
struct Identity {
    run_id: String,
    history: String,
    goes_on: bool,
}

impl Simulated {
    pub const TIMEOUT: Duration = Duration::from_millis(500);
    const SLOW_IN_A_ROW_MAX: u32 = 3;
    /// As in `redis/pauses.rs`, in milliseconds.
    const PAUSE_MIN: u64 = 20;
    const PAUSE_MAX: u64 = 400;

    pub fn new(transport: impl Transport, process: Arc<Process>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            transport: Box::new(transport),
            process,
            home: Home::new(LOCK_TAG, None, None),
            clock: StoreClock::default(),
            live: Mutex::default(),
            connected: Notify::new(),
            pauses: Mutex::new(fastrand::Rng::with_seed(seed)),
        })
    }

    /// Connects, and keeps connected.
    pub async fn stay_connected(self: Arc<Self>) {
        loop {
            let live = self.reconnect().await;
            self.watch(&live).await;
            *self.live() = None;
        }
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    pub(super) fn now_us(&self) -> Option<u64> {
        self.clock.now_us()
    }

    pub(super) fn is_there(&self) -> bool {
        self.live().is_some()
    }

    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    pub(super) fn subscribe(&self, channel: &str) -> mpsc::Receiver<String> {
        self.transport.subscribe(channel)
    }

    /// What the store says of itself.
    pub(super) async fn store(&self) -> Result<String, StoreError> {
        let live = self.next_live(Instant::now() + Self::TIMEOUT).await?;
        Ok(live.identity().process())
    }

    pub(super) async fn run(&self, script: &'static Script, keys: &[&str], args: &[&str]) -> Result<Reply, StoreError> {
        let deadline = Instant::now() + Self::TIMEOUT;
        let live = self.next_live(deadline).await?;
        let asked = self.transport.ask(&live.connection, Question::Run { script, keys, args });
        match timeout_at(deadline, asked).await {
            Ok(Ok(reply)) => {
                live.slow_in_a_row.store(0, Ordering::Relaxed);
                Ok(reply)
            }
            Ok(Err(error)) => {
                if !matches!(error, StoreError::Refused(_)) {
                    live.connection.broken.cancel();
                }
                Err(error)
            }
            Err(_) => {
                if live.slow_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= Self::SLOW_IN_A_ROW_MAX {
                    live.connection.broken.cancel();
                }
                Err(too_slow())
            }
        }
    }

    async fn next_live(&self, deadline: Instant) -> Result<Arc<Live>, StoreError> {
        loop {
            let mut connected = pin!(self.connected.notified());
            connected.as_mut().enable();
            if let Some(live) = self.live().clone() {
                return Ok(live);
            }
            if timeout_at(deadline, connected).await.is_err() {
                return Err(StoreError::NotSent("there is no connection to the store".into()));
            }
        }
    }

    async fn reconnect(&self) -> Arc<Live> {
        let mut pause_ms = Self::PAUSE_MIN;
        loop {
            if let Ok(live) = self.connect().await {
                return live;
            }
            let jitter = self.pauses.lock().unwrap_or_else(PoisonError::into_inner).u64(..=pause_ms);
            sleep(Duration::from_millis(pause_ms + jitter)).await;
            pause_ms = (pause_ms * 2).min(Self::PAUSE_MAX);
        }
    }

    async fn connect(&self) -> Result<Arc<Live>, StoreError> {
        let connecting = self.transport.connect();
        let connection = timeout_at(Instant::now() + Self::TIMEOUT, connecting).await.map_err(|_| too_slow())??;
        if !mends::is_on(Mend::LeapAcrossReconnect) {
            self.clock.forget();
        }
        let identity = self.check(&connection).await?;
        let live = Arc::new(Live { connection, identity: Mutex::new(identity), slow_in_a_row: AtomicU32::new(0) });
        self.arrive(&live, "").await?;
        Ok(live)
    }

    async fn watch(&self, live: &Arc<Live>) {
        loop {
            tokio::select! {
                biased;
                () = live.connection.broken.cancelled() => return,
                () = sleep(LOOK_INTERVAL) => {}
            }
            if self.look(live).await.is_err() {
                return;
            }
        }
    }

    async fn look(&self, live: &Arc<Live>) -> Result<(), StoreError> {
        let identity = self.check(&live.connection).await?;
        let before =
            std::mem::replace(&mut *live.identity.lock().unwrap_or_else(PoisonError::into_inner), identity.clone());
        let former = if identity.is_renamed(&before) { before.process() } else { String::new() };
        self.arrive(live, &former).await
    }

    async fn arrive(&self, live: &Arc<Live>, former: &str) -> Result<(), StoreError> {
        let asked = BootTime::now();
        let said = self.ask_in_time(&live.connection, Question::Time).await?;
        let reading = Reading::new(said.word(0).map_err(|error| StoreError::Refused(error.to_string()))?, asked);
        let leap = self.clock.leap(&reading, Reading::LEAP_MAX);
        let leapt = leap.zip(self.home.epoch());
        let arrival = leapt.as_ref().map_or(Arrival::Look, |(leap, epoch)| Arrival::Leapt(epoch, &leap.before_us));
        if !mends::is_on(Mend::LeapClosedFirst) {
            self.clock.hear(reading);
        }
        let keys = ["home", "clock"].map(|kind| key(Self::PREFIX, LOCK_TAG, kind, ""));
        let process = live.identity().process();
        let args = self.home.arrive_args(&process, former, arrival);
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let keys = [&*keys[0], &*keys[1]];
        let reply =
            self.ask_in_time(&live.connection, Question::Run { script: &ARRIVE, keys: &keys, args: &args }).await?;
        self.home.note(&reply).map_err(|error| StoreError::Refused(error.to_string()))?;
        self.clock.hear(reading);
        let is_new = !self.live().as_ref().is_some_and(|before| Arc::ptr_eq(before, live));
        if is_new {
            *self.live() = Some(live.clone());
            self.connected.notify_waiters();
        }
        Ok(())
    }

    async fn check(&self, connection: &Connection) -> Result<Identity, StoreError> {
        let reply = self.ask_in_time(connection, Question::Identity).await?;
        let text = |index| reply.text(index).map(str::to_owned).map_err(|error| StoreError::Refused(error.to_string()));
        Ok(Identity { run_id: text(0)?, history: text(1)?, goes_on: text(2)? == "1" })
    }

    async fn ask_in_time(&self, connection: &Connection, question: Question<'_>) -> Result<Reply, StoreError> {
        let asked = self.transport.ask(connection, question);
        timeout_at(Instant::now() + Self::TIMEOUT, asked).await.map_err(|_| too_slow())?
    }

    pub(super) const PREFIX: &'static str = "lockable";

    fn live(&self) -> MutexGuard<'_, Option<Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Identity {
    fn process(&self) -> String {
        format!("{} {}", self.run_id, self.history)
    }

    fn is_renamed(&self, before: &Self) -> bool {
        self.run_id == before.run_id && self.history != before.history && !self.goes_on
    }
}

fn too_slow() -> StoreError {
    StoreError::NoAnswer("the store took too long".into())
}
