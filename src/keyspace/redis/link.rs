use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use deadpool_redis::Status;
use redis::aio::MultiplexedConnection;
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    call::evaluate,
    check::{Identity, StartError, check},
    lanes::Lanes,
    live::{Live, Looked},
    locate::Locator,
    pauses::pauses,
};
use crate::{
    keyspace::{
        KeyspaceError, LOOK_INTERVAL,
        home::{ARRIVE, Home},
        reading::Reading,
    },
    moment::Moment,
};

/// The connections that all scripts share, and the task that replaces them.
pub(super) struct Link {
    live: watch::Receiver<Option<Arc<Live>>>,
    clock: Arc<Clock>,
}

/// By how many microseconds the server's clock is ahead of one in this process, as
/// it was when its word was heard; nothing before. Every request asks for it, so
/// it has no lock.
struct Clock {
    begun: Instant,
    ahead_us: AtomicU64,
}

impl Clock {
    fn new() -> Self {
        Self { begun: Instant::now(), ahead_us: AtomicU64::new(0) }
    }

    fn set(&self, said_us: u64) {
        self.ahead_us.store(said_us.saturating_sub(self.passed_us()), Ordering::Relaxed);
    }

    fn now_us(&self) -> Option<u64> {
        match self.ahead_us.load(Ordering::Relaxed) {
            0 => None,
            ahead_us => Some(ahead_us + self.passed_us()),
        }
    }

    fn passed_us(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }
}

/// What a link leads to.
pub(super) struct Plan {
    pub(super) locator: Arc<Locator>,
    /// The hash tag of the keys that are asked for.
    pub(super) tag: &'static str,
    /// For grants: who has them.
    pub(super) hearth: Option<Hearth>,
    /// Those on which scripts are run, each of which has a connection to itself.
    pub(super) runtimes: Vec<Handle>,
    /// How many connections may be lent out, for one user at a time.
    pub(super) lent_max: u32,
}

/// Where scripts find who has the grants, and who is told.
pub(super) struct Hearth {
    pub(super) home: Arc<Home>,
    /// The names of the keys `home` and `clock`.
    pub(super) keys: [String; 2],
}

impl Link {
    /// Connects, and goes on connecting until `stop`.
    ///
    /// # Errors
    /// When the server must not be used as it is. One that cannot be reached is
    /// waited for.
    pub(super) async fn start(plan: Plan, stop: CancellationToken) -> Result<Arc<Self>, StartError> {
        let (sender, live) = watch::channel(None);
        let clock = Arc::new(Clock::new());
        let mut supervisor =
            Supervisor { shown: plan.locator.shown().to_owned(), plan, live: sender, clock: clock.clone() };
        let first = match supervisor.connect().await {
            Ok(live) => Some(live),
            Err(error) if error.is_passing() => {
                tracing::warn!(%error, redis = supervisor.shown, "waiting for Redis");
                None
            }
            Err(error) => return Err(error),
        };
        // Published before the first request, not when the task comes to it.
        supervisor.live.send_replace(first.clone());
        tokio::spawn(async move { stop.run_until_cancelled(supervisor.run(first)).await });
        Ok(Arc::new(Self { live, clock }))
    }

    /// The connection, waiting for one until `deadline`.
    pub(super) async fn live(&self, deadline: Instant) -> Result<Arc<Live>, KeyspaceError> {
        if let Some(live) = &*self.live.borrow() {
            return Ok(live.clone());
        }
        // Boxed: its room would be taken in every request, most of which find one.
        Box::pin(self.next_live(deadline)).await
    }

    async fn next_live(&self, deadline: Instant) -> Result<Arc<Live>, KeyspaceError> {
        let mut receiver = self.live.clone();
        match timeout_at(deadline, receiver.wait_for(Option::is_some)).await {
            Ok(Ok(live)) => live.clone().ok_or_else(not_connected),
            Ok(Err(_)) | Err(_) => Err(not_connected()),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.borrow().is_some()
    }

    pub(super) fn pool_status(&self) -> Option<Status> {
        self.live.borrow().as_ref().map(|live| live.pool.status())
    }

    /// The server's time, at most the time of an answer behind: counted from
    /// when its word was heard, as if it had been spoken only then.
    pub(super) fn now_us(&self) -> Option<u64> {
        self.clock.now_us()
    }
}

fn not_connected() -> KeyspaceError {
    KeyspaceError::NotSent("there is no connection to Redis".into())
}

struct Supervisor {
    plan: Plan,
    /// The server that it is connected to, or what leads there.
    shown: String,
    live: watch::Sender<Option<Arc<Live>>>,
    clock: Arc<Clock>,
}

impl Supervisor {
    async fn run(mut self, first: Option<Arc<Live>>) {
        let mut next = first;
        loop {
            let live = match next.take() {
                Some(live) => live,
                None => self.reconnect().await,
            };
            self.live.send_replace(Some(live.clone()));
            let reason = self.watch(&live).await;
            self.live.send_replace(None);
            tracing::warn!(redis = self.shown, reason, "lost the connection to Redis");
        }
    }

    /// Tries until there is a connection to a server that can be used. What is
    /// wrong is logged when it changes, not with every try.
    async fn reconnect(&mut self) -> Arc<Live> {
        let mut pauses = pauses();
        let mut logged = String::new();
        loop {
            let error = match self.connect().await {
                Ok(live) => {
                    tracing::info!(redis = self.shown, "connected to Redis");
                    return live;
                }
                Err(error) => error,
            };
            let complaint = error.to_string();
            if complaint != logged {
                match error.is_passing() {
                    true => tracing::warn!(%error, "waiting for Redis"),
                    false => tracing::error!(%error, "Redis is there and must not be used as it is"),
                }
                logged = complaint;
            }
            sleep(pauses.next().unwrap_or_default()).await;
        }
    }

    async fn connect(&mut self) -> Result<Arc<Live>, StartError> {
        let located = self.plan.locator.locate(self.plan.tag).await?;
        let mut connection = located.address.connect().await?;
        let identity = check(&mut connection).await?;
        self.shown.clone_from(&located.address.shown);
        // Before anybody can use it: what this server has may be old.
        self.arrive(&mut connection, &identity, "", 0).await?;
        let reading = self.hear_time(&mut connection).await?;
        let broken = CancellationToken::new();
        Ok(Arc::new(Live {
            lanes: Lanes::open(&located.address, &identity.run_id, &self.plan.runtimes, &broken).await?,
            pool: located.address.pool(self.plan.lent_max, identity.run_id.clone())?,
            connection,
            located,
            looked: Mutex::new(Looked { identity, reading }),
            slow_in_a_row: AtomicU32::new(0),
            broken,
        }))
    }

    /// Looks at the connection until it has to be given up; returns why.
    async fn watch(&mut self, live: &Live) -> String {
        let mut connection = live.connection.clone();
        while live.broken.run_until_cancelled(sleep(LOOK_INTERVAL)).await.is_some() {
            if let Err(error) = self.look(&mut connection, live).await {
                return error.to_string();
            }
        }
        "it failed a request".into()
    }

    /// Looks whether the server is still the one that was checked, and has all
    /// that it had.
    async fn look(&mut self, connection: &mut MultiplexedConnection, live: &Live) -> Result<(), StartError> {
        if let Some(moved) = self.plan.locator.has_moved(self.plan.tag, &live.located).await {
            return Err(StartError::Moved(moved));
        }
        let identity = check(connection).await?;
        let reading = self.hear_time(connection).await?;
        let before = std::mem::replace(
            &mut *live.looked.lock().unwrap_or_else(PoisonError::into_inner),
            Looked { identity: identity.clone(), reading },
        );
        let former = if identity.is_renamed(&before.identity) { before.identity.process() } else { String::new() };
        // Leases last by this clock. When it leaps some lapse too early, or new
        // fences are smaller than old ones.
        let floor_us = match reading.leap(&before.reading, live.located.address.leap_max()) {
            Some(leap) => {
                tracing::warn!(seconds = leap, redis = self.shown, "the clock of Redis has leapt");
                self.plan.hearth.as_ref().map_or(0, |hearth| hearth.home.epoch_us())
            }
            None => 0,
        };
        self.arrive(connection, &identity, &former, floor_us).await?;
        live.lanes.ping(Instant::now() + live.located.address.timeout()).await
    }

    async fn arrive(
        &self,
        connection: &mut MultiplexedConnection,
        identity: &Identity,
        former: &str,
        floor_us: u64,
    ) -> Result<(), StartError> {
        let Some(Hearth { home: told, keys: [home, clock] }) = &self.plan.hearth else {
            // A node that does not have these keys says so here.
            let key = format!("{{{}}}", self.plan.tag);
            return Ok(redis::cmd("EXISTS").arg(key).query_async(connection).await?);
        };
        let args = [&*identity.process(), former, &floor_us.to_string()];
        let reply = evaluate(connection, &ARRIVE, &[home, clock], &args).await;
        let reply = reply.map_err(|fault| StartError::Away(KeyspaceError::from(fault).to_string()))?;
        told.note(&reply).map_err(|error| StartError::Away(error.to_string()))?;
        Ok(())
    }

    async fn hear_time(&mut self, connection: &mut MultiplexedConnection) -> redis::RedisResult<Reading> {
        let asked = Moment::now();
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
        let reading = Reading::new(seconds * 1_000_000 + micros, asked);
        self.clock.set(reading.said_us);
        Ok(reading)
    }
}
