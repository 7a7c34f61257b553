//! The connection of a simulated server to its store, which a simulator controls. It replaces
//! `Supervisor` and `TagHandle` in a build with the feature `simulation`, with the same steps in
//! the same order: the store's identity, its clock, a clock jump, the registration of the
//! primary, and only then commands.

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
use lockable_boot_time::BootTime;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    CHECK_INTERVAL, Reply, Script, StoreError,
    clock_sample::ClockSample,
    key::key,
    primary::{Primary, REGISTER_PRIMARY, Registration},
    shards::LOCK_TAG,
    store_clock::StoreClock,
};
use crate::safeguards::{self, Safeguard};

pub use self::process::{Process, ProcessTask};

/// The simulated network between a server and its store.
pub trait Transport: Send + Sync + 'static {
    /// Connects to the current store.
    fn connect(&self) -> BoxFuture<'static, Result<SimulatedConnection, StoreError>>;

    /// Sends a request. Without a reply the future never ends.
    fn send(
        &self,
        connection: &SimulatedConnection,
        request: StoreRequest<'_>,
    ) -> BoxFuture<'static, Result<Reply, StoreError>>;

    /// Subscribes to a channel.
    fn subscribe(&self, channel: &str) -> mpsc::Receiver<String>;
}

pub enum StoreRequest<'a> {
    /// Returns `run_id`, the replication id, and '1' if that continues another one.
    Identity,
    /// Returns microseconds since 1970.
    Time,
    Eval {
        script: &'static Script,
        keys: &'a [&'a str],
        args: &'a [&'a str],
    },
}

#[derive(Clone)]
pub struct SimulatedConnection {
    pub number: u64,
    /// Cancelled when the connection is cut.
    pub broken: CancellationToken,
}

/// The store of one simulated server.
pub struct Simulated {
    transport: Box<dyn Transport>,
    process: Arc<Process>,
    primary: Primary,
    clock: StoreClock,
    store: Mutex<Option<Arc<CheckedStore>>>,
    connected: Notify,
    jitter: Mutex<fastrand::Rng>,
}

struct CheckedStore {
    connection: SimulatedConnection,
    identity: Mutex<SimulatedIdentity>,
    timeouts_in_a_row: AtomicU32,
}

#[derive(Clone, PartialEq, Eq)]
struct SimulatedIdentity {
    run_id: String,
    history: String,
    continues_history: bool,
}

impl Simulated {
    pub const TIMEOUT: Duration = Duration::from_millis(500);
    const TIMEOUTS_IN_A_ROW_MAX: u32 = 3;
    /// As in `redis/backoff.rs`, in milliseconds.
    const BACKOFF_MIN_MS: u64 = 20;
    const BACKOFF_MAX_MS: u64 = 400;

    pub fn new(transport: impl Transport, process: Arc<Process>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            transport: Box::new(transport),
            process,
            primary: Primary::new(LOCK_TAG, None, None),
            clock: StoreClock::default(),
            store: Mutex::default(),
            connected: Notify::new(),
            jitter: Mutex::new(fastrand::Rng::with_seed(seed)),
        })
    }

    /// Connects, and reconnects for ever.
    pub async fn stay_connected(self: Arc<Self>) {
        loop {
            let store = self.reconnect().await;
            self.watch(&store).await;
            *self.store() = None;
        }
    }

    pub(super) fn primary(&self) -> &Primary {
        &self.primary
    }

    pub(super) fn now_us(&self) -> Option<u64> {
        self.clock.now_us()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.store().is_some()
    }

    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    pub(super) fn subscribe(&self, channel: &str) -> mpsc::Receiver<String> {
        self.transport.subscribe(channel)
    }

    /// The identity of the store.
    pub(super) async fn store_process(&self) -> Result<String, StoreError> {
        let store = self.wait_for_store(Instant::now() + Self::TIMEOUT).await?;
        Ok(store.identity().process())
    }

    pub(super) async fn eval(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
    ) -> Result<Reply, StoreError> {
        let deadline = Instant::now() + Self::TIMEOUT;
        let store = self.wait_for_store(deadline).await?;
        let reply = self.transport.send(&store.connection, StoreRequest::Eval { script, keys, args });
        match timeout_at(deadline, reply).await {
            Ok(Ok(reply)) => {
                store.timeouts_in_a_row.store(0, Ordering::Relaxed);
                Ok(reply)
            }
            Ok(Err(error)) => {
                if !matches!(error, StoreError::Refused(_)) {
                    store.connection.broken.cancel();
                }
                Err(error)
            }
            Err(_) => {
                if store.timeouts_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= Self::TIMEOUTS_IN_A_ROW_MAX {
                    store.connection.broken.cancel();
                }
                Err(timed_out())
            }
        }
    }

    async fn wait_for_store(&self, deadline: Instant) -> Result<Arc<CheckedStore>, StoreError> {
        loop {
            let mut connected = pin!(self.connected.notified());
            connected.as_mut().enable();
            if let Some(store) = self.store().clone() {
                return Ok(store);
            }
            if timeout_at(deadline, connected).await.is_err() {
                return Err(StoreError::NotSent("there is no connection to the store".into()));
            }
        }
    }

    async fn reconnect(&self) -> Arc<CheckedStore> {
        let mut backoff_ms = Self::BACKOFF_MIN_MS;
        loop {
            if let Ok(store) = self.connect().await {
                return store;
            }
            let jitter = self.jitter.lock().unwrap_or_else(PoisonError::into_inner).u64(..=backoff_ms);
            sleep(Duration::from_millis(backoff_ms + jitter)).await;
            backoff_ms = (backoff_ms * 2).min(Self::BACKOFF_MAX_MS);
        }
    }

    async fn connect(&self) -> Result<Arc<CheckedStore>, StoreError> {
        let connecting = self.transport.connect();
        let connection = timeout_at(Instant::now() + Self::TIMEOUT, connecting).await.map_err(|_| timed_out())??;
        if !safeguards::is_on(Safeguard::JumpAcrossReconnect) {
            self.clock.forget();
        }
        let identity = self.identify(&connection).await?;
        let store =
            Arc::new(CheckedStore { connection, identity: Mutex::new(identity), timeouts_in_a_row: AtomicU32::new(0) });
        self.register(&store, "").await?;
        Ok(store)
    }

    async fn watch(&self, store: &Arc<CheckedStore>) {
        loop {
            tokio::select! {
                biased;
                () = store.connection.broken.cancelled() => return,
                () = sleep(CHECK_INTERVAL) => {}
            }
            if self.check_store(store).await.is_err() {
                return;
            }
        }
    }

    async fn check_store(&self, store: &Arc<CheckedStore>) -> Result<(), StoreError> {
        let identity = self.identify(&store.connection).await?;
        let before =
            std::mem::replace(&mut *store.identity.lock().unwrap_or_else(PoisonError::into_inner), identity.clone());
        let former = if identity.is_renamed(&before) { before.process() } else { String::new() };
        self.register(store, &former).await
    }

    async fn register(&self, store: &Arc<CheckedStore>, former: &str) -> Result<(), StoreError> {
        let sent_at = BootTime::now();
        let time = self.send_with_timeout(&store.connection, StoreRequest::Time).await?;
        let sample = ClockSample::new(time.word(0).map_err(|error| StoreError::Refused(error.to_string()))?, sent_at);
        let jump = self.clock.jump(&sample, ClockSample::JUMP_MAX);
        let jumped = jump.zip(self.primary.epoch());
        let registration = jumped
            .as_ref()
            .map_or(Registration::Check, |(jump, epoch)| Registration::ClockJumped(epoch, &jump.before_us));
        if !safeguards::is_on(Safeguard::JumpClosedFirst) {
            self.clock.record(sample);
        }
        let keys = ["primary", "clock"].map(|kind| key(Self::PREFIX, LOCK_TAG, kind, ""));
        let process = store.identity().process();
        let args = self.primary.registration_args(&process, former, registration);
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let keys = [&*keys[0], &*keys[1]];
        let reply = self
            .send_with_timeout(
                &store.connection,
                StoreRequest::Eval { script: &REGISTER_PRIMARY, keys: &keys, args: &args },
            )
            .await?;
        self.primary.record_reply(&reply).map_err(|error| StoreError::Refused(error.to_string()))?;
        self.clock.record(sample);
        let is_new = !self.store().as_ref().is_some_and(|before| Arc::ptr_eq(before, store));
        if is_new {
            *self.store() = Some(store.clone());
            self.connected.notify_waiters();
        }
        Ok(())
    }

    async fn identify(&self, connection: &SimulatedConnection) -> Result<SimulatedIdentity, StoreError> {
        let reply = self.send_with_timeout(connection, StoreRequest::Identity).await?;
        let text = |index| reply.text(index).map(str::to_owned).map_err(|error| StoreError::Refused(error.to_string()));
        Ok(SimulatedIdentity { run_id: text(0)?, history: text(1)?, continues_history: text(2)? == "1" })
    }

    async fn send_with_timeout(
        &self,
        connection: &SimulatedConnection,
        request: StoreRequest<'_>,
    ) -> Result<Reply, StoreError> {
        let reply = self.transport.send(connection, request);
        timeout_at(Instant::now() + Self::TIMEOUT, reply).await.map_err(|_| timed_out())?
    }

    pub(super) const PREFIX: &'static str = "lockable";

    fn store(&self) -> MutexGuard<'_, Option<Arc<CheckedStore>>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckedStore {
    fn identity(&self) -> SimulatedIdentity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl SimulatedIdentity {
    fn process(&self) -> String {
        format!("{} {}", self.run_id, self.history)
    }

    fn is_renamed(&self, before: &Self) -> bool {
        self.run_id == before.run_id && self.history != before.history && !self.continues_history
    }
}

fn timed_out() -> StoreError {
    StoreError::NoAnswer("the store did not reply in time".into())
}
