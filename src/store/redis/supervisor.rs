use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU32};

use redis::aio::MultiplexedConnection;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::pauses,
    checked_node::Live,
    command_error::Fault,
    discovery::{Located, Locator},
    per_runtime::Lanes,
    server_info::{StartError, check},
    slot_map::Routes,
    topology::Place,
};
use crate::{
    boot_time::BootTime,
    store::{Arrival, LOOK_INTERVAL, StoreError, clock_sample::Reading, shards::LOCK_TAG},
};

/// Keeps connected to one server, and has its routes lead there while it is one
/// that was checked.
pub(super) struct Link {
    plan: Plan,
    /// The server that it is connected to, or what leads there.
    shown: String,
}

/// What a link leads to, and what comes by it.
pub(super) struct Plan {
    pub(super) locator: Arc<Locator>,
    /// Which node of a cluster; else the locator finds the one server.
    pub(super) node: Option<Place>,
    pub(super) routes: Arc<Routes>,
    /// Those on which scripts are run, each of which has a connection to itself.
    pub(super) runtimes: Vec<Handle>,
    /// How many connections may be lent out, for one user at a time.
    pub(super) lent_max: u32,
}

impl Link {
    /// Connects, and goes on connecting until `stop`.
    ///
    /// # Errors
    /// When the server must not be used as it is. One that cannot be reached is
    /// waited for.
    pub(super) async fn start(plan: Plan, stop: CancellationToken) -> Result<(), StartError> {
        let mut link = Self { shown: plan.locator.shown().to_owned(), plan };
        // Its routes lead there before the first request, not when the task comes to it.
        let first = match link.connect().await {
            Ok(live) => Some(live),
            Err(error) if error.is_passing() => {
                tracing::warn!(%error, redis = link.shown, "waiting for Redis");
                None
            }
            Err(error) => return Err(error),
        };
        tokio::spawn(link.run_until(stop, first));
        Ok(())
    }

    /// The same, without waiting for the first connection.
    pub(super) fn spawn(plan: Plan, stop: CancellationToken) {
        let link = Self { shown: plan.locator.shown().to_owned(), plan };
        tokio::spawn(link.run_until(stop, None));
    }

    async fn run_until(self, stop: CancellationToken, first: Option<Arc<Live>>) {
        tokio::select! {
            // Looked at first: connections that end after it are not lost.
            biased;
            () = stop.cancelled() => {}
            () = self.run(first) => {}
        }
    }

    async fn run(mut self, first: Option<Arc<Live>>) {
        let mut next = first;
        loop {
            let live = match next.take() {
                Some(live) => live,
                None => self.reconnect().await,
            };
            let reason = self.watch(&live).await;
            self.plan.routes.close();
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
        let located = self.locate().await?;
        let mut connection = located.address.connect().await?;
        let identity = check(&mut connection).await?;
        self.shown.clone_from(&located.address.shown);
        let broken = CancellationToken::new();
        let live = Arc::new(Live {
            lanes: Lanes::open(&located.address, &identity.run_id, &self.plan.runtimes, &broken).await?,
            pool: located.address.pool(self.plan.lent_max, identity.run_id.clone())?,
            connection: connection.clone(),
            located,
            routes: self.plan.routes.clone(),
            identity: Mutex::new(identity),
            slow_in_a_row: AtomicU32::new(0),
            broken,
        });
        // Before anybody can use it: what this server has may be old.
        self.arrive(&mut connection, &live, "").await?;
        Ok(live)
    }

    async fn locate(&self) -> Result<Located, StartError> {
        match &self.plan.node {
            Some(place) => self.plan.locator.at(place),
            None => self.plan.locator.locate(LOCK_TAG).await,
        }
    }

    /// Looks at the connection until it has to be given up; returns why.
    async fn watch(&mut self, live: &Arc<Live>) -> String {
        let mut connection = live.connection.clone();
        loop {
            tokio::select! {
                () = live.broken.cancelled() => return "it failed a request".into(),
                () = sleep(LOOK_INTERVAL) => {}
                () = self.plan.routes.changed.notified() => {}
            }
            if let Err(error) = self.look(&mut connection, live).await {
                return error.to_string();
            }
        }
    }

    /// Looks whether the server is still the one that was checked, and has all
    /// that it had.
    async fn look(&mut self, connection: &mut MultiplexedConnection, live: &Arc<Live>) -> Result<(), StartError> {
        // In a cluster somebody else looks, for all nodes.
        if self.plan.node.is_none()
            && let Some(moved) = self.plan.locator.has_moved(LOCK_TAG, &live.located).await
        {
            return Err(StartError::Moved(moved));
        }
        let identity = check(connection).await?;
        let before =
            std::mem::replace(&mut *live.identity.lock().unwrap_or_else(PoisonError::into_inner), identity.clone());
        let former = if identity.is_renamed(&before) { before.process() } else { String::new() };
        self.arrive(connection, live, &former).await?;
        live.lanes.ping(Instant::now() + live.located.address.timeout()).await
    }

    /// Tells the server that keys are looked for there, and has its routes lead there.
    ///
    /// Leases last by the server's clock. Where it has leapt some lapse too early, or new
    /// fences are smaller than old ones: an epoch begins then, before a route hears of
    /// the new time and its commands stop being late.
    async fn arrive(
        &self,
        connection: &mut MultiplexedConnection,
        live: &Arc<Live>,
        former: &str,
    ) -> Result<(), StartError> {
        let reading = read_time(connection).await?;
        let (routes, process) = (&self.plan.routes, live.identity().process());
        let all = routes.all();
        let leap_max = live.located.address.leap_max();
        let leaps: Vec<_> = all.iter().map(|route| route.leap(&reading, leap_max)).collect();
        if let Some(leap) = leaps.iter().flatten().next() {
            tracing::warn!(seconds = leap.seconds, redis = self.shown, "the clock of Redis has leapt");
        }
        for (route, leap) in all.iter().zip(leaps) {
            let leapt = leap.zip(route.home().epoch());
            let arrival = leapt.as_ref().map_or(Arrival::Look, |(leap, epoch)| Arrival::Leapt(epoch, &leap.before_us));
            match route.arrive(connection, &process, former, arrival).await {
                Ok(()) => {
                    route.hear(reading);
                    routes.lead(route, live);
                }
                Err(Fault::NoMaster(_)) if routes.are_many() => routes.lose(route),
                Err(fault) => return Err(StartError::Away(StoreError::from(fault).to_string())),
            }
        }
        Ok(())
    }
}

async fn read_time(connection: &mut MultiplexedConnection) -> redis::RedisResult<Reading> {
    let asked = BootTime::now();
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
    Ok(Reading::new(seconds * 1_000_000 + micros, asked))
}
