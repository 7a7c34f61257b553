//! The store in Redis.

mod address;
mod backoff;
mod checked_node;
mod command_error;
mod connect;
mod discovery;
mod nodes;
mod per_runtime;
mod pipeline;
mod pooled;
mod server_info;
mod slot_map;
mod subscriptions;
mod supervisor;
mod topology;
mod wait_replicas;

use std::{sync::Arc, time::Duration};

use deadpool_redis::Status;
use metrics::gauge;
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    checked_node::Live,
    command_error::Fault,
    discovery::Locator,
    nodes::{Nodes, Ways},
    slot_map::{Route, Routes},
    subscriptions::Subscriptions,
    supervisor::{Link, Plan},
};
use super::{
    Reply, Script, StoreError,
    key::key,
    primary::Home,
    shards::{ACCOUNTS_TAG, Shard},
};
use crate::config::RedisSettings;

pub use self::server_info::StartError;

/// A Redis or Valkey server, or several of which one is the master, or a cluster.
///
/// All scripts that one runtime runs on one server share a connection: at 64
/// clients that was measured to be twice as fast as a pool, and costs both sides
/// half as much. The pool is for what needs a connection to itself.
pub struct Redis {
    shards: &'static [Shard],
    /// The way to all locks, or to those of the first shard.
    first: Arc<Route>,
    /// In a cluster, the ways to the other shards, in their order.
    others: Vec<Arc<Route>>,
    /// In a cluster, the way to what is kept of accounts.
    accounts: Option<Arc<Route>>,
    subscriptions: Subscriptions,
    prefix: String,
    timeout: Duration,
    wait_replicas: u32,
    tasks: DropGuard,
}

impl Redis {
    /// How long to wait before a server is asked again that has turned a script away.
    const TURNED_AWAY_PAUSE: Duration = Duration::from_millis(20);

    /// Connects, and keeps connected until dropped. A server that cannot be
    /// reached yet is waited for in the background. Each of the `runtimes` has a
    /// connection of its own; scripts that are run elsewhere go by the first.
    ///
    /// # Errors
    /// When the address cannot be read, or the server must not be used: too old,
    /// about to evict locks, or with another password.
    pub async fn start(settings: &RedisSettings, runtimes: &[Handle]) -> Result<Arc<Self>, StartError> {
        let url = settings.url.as_ref().ok_or(StartError::NoAddress)?;
        let locator = Arc::new(Locator::parse(url, settings.timeout)?);
        let stop = CancellationToken::new();
        let subscriptions = Subscriptions::start(locator.clone(), stop.clone());
        let shards = if locator.is_cluster() { Shard::spread() } else { Shard::only() };
        let gathered = locator.is_cluster().then(Arc::default);
        let route_to = |shard: &Shard| {
            let keys = ["home", "clock"].map(|kind| key(&settings.prefix, shard.tag, kind, ""));
            Arc::new(Route::to_grants(shard.tag, keys, gathered.clone()))
        };
        let mut routes = shards.iter().map(route_to);
        let first = routes.next().ok_or(StartError::NoAddress)?;
        let others: Vec<_> = routes.collect();
        let (runtimes, lent_max) = (runtimes.to_vec(), settings.pool_size);
        let accounts = if locator.is_cluster() {
            let accounts = Arc::new(Route::new(ACCOUNTS_TAG));
            let all = std::iter::once(&first).chain(&others).chain([&accounts]).cloned().collect();
            Nodes::start(Ways { locator, runtimes, lent_max }, all, stop.clone()).await?;
            Some(accounts)
        } else {
            let routes = Routes::only(first.clone());
            Link::start(Plan { locator, node: None, routes, runtimes, lent_max }, stop.clone()).await?;
            None
        };
        Ok(Arc::new(Self {
            shards,
            first,
            others,
            accounts,
            subscriptions,
            prefix: settings.prefix.clone(),
            timeout: settings.timeout,
            wait_replicas: settings.wait_replicas,
            tasks: stop.drop_guard(),
        }))
    }

    /// Runs a script within the time-out from when it `begun`, connecting included.
    /// What a server has turned away, since the keys are elsewhere or about to be,
    /// it has not run: that is sent again.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn run(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
        begun: std::time::Instant,
    ) -> Result<Reply, StoreError> {
        let deadline = Instant::from_std(begun) + self.timeout;
        let route = self.route_to(keys);
        loop {
            let live = route.live(deadline).await?;
            match live.pipeline().evaluate(script, keys, args, deadline).await {
                Ok(reply) => {
                    live.answered();
                    return Ok(reply);
                }
                Err(fault) => {
                    route.note(&live, &fault);
                    let again = Instant::now() + Self::TURNED_AWAY_PAUSE;
                    if !matches!(fault, Fault::NoMaster(_)) || again > deadline {
                        return Err(fault.into());
                    }
                    // Boxed: its room would be taken in every request.
                    Box::pin(sleep_until(again)).await;
                }
            }
        }
    }

    /// Looks after the connections no longer.
    pub(super) fn leave(&self) {
        self.tasks.token().cancel();
    }

    /// All shards that locks are in.
    pub(super) fn shards(&self) -> &'static [Shard] {
        self.shards
    }

    pub(super) fn home(&self, shard: Shard) -> &Home {
        self.route(shard).home()
    }

    /// What the server says of itself that has this shard.
    ///
    /// # Errors
    /// When there is none in time.
    pub(super) async fn process(&self, shard: Shard) -> Result<String, StoreError> {
        let live = self.route(shard).live(Instant::now() + self.timeout).await?;
        Ok(live.identity().process())
    }

    /// Listens to a channel for as long as the receiver is kept.
    pub fn subscribe(&self, channel: &str) -> mpsc::Receiver<String> {
        self.subscriptions.add(channel)
    }

    /// Whether there is a connection to the server that has this shard.
    pub(super) fn is_there(&self, shard: Shard) -> bool {
        self.route(shard).is_live()
    }

    /// Whether there is a connection to the server that has what is kept of accounts.
    pub(super) fn has_accounts(&self) -> bool {
        self.accounts.as_ref().unwrap_or(&self.first).is_live()
    }

    /// Whether there is a connection to a server that was checked and has locks.
    pub fn is_reachable(&self) -> bool {
        self.routes().any(|route| route.is_live())
    }

    /// Whether there is one wherever locks are.
    pub fn is_reachable_as_a_whole(&self) -> bool {
        self.routes().all(|route| route.is_live())
    }

    fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn route(&self, shard: Shard) -> &Route {
        shard.number.checked_sub(1).and_then(|number| self.others.get(number)).unwrap_or(&self.first)
    }

    /// The way to the server that has these keys, which share a hash tag.
    fn route_to(&self, keys: &[&str]) -> &Route {
        let Some(accounts) = &self.accounts else { return &self.first };
        let tag = keys.first().and_then(|key| key.split(['{', '}']).nth(1)).unwrap_or_default();
        Shard::with_tag(tag).map_or(accounts, |shard| self.route(shard))
    }

    /// Measures the pools' connections.
    pub fn measure(&self) {
        let mut lives: Vec<Arc<Live>> = self.routes().filter_map(|route| route.live_now()).collect();
        lives.sort_by_key(Arc::as_ptr);
        lives.dedup_by_key(|live| Arc::as_ptr(live));
        let sum = |count: fn(Status) -> usize| lives.iter().map(|live| count(live.pool.status())).sum::<usize>() as f64;
        gauge!("lockable_redis_pool_connections", "state" => "idle").set(sum(|status| status.available));
        gauge!("lockable_redis_pool_connections", "state" => "used")
            .set(sum(|status| status.size.saturating_sub(status.available)));
    }

    /// The time of the server that has this shard, in microseconds since 1970, or a
    /// little less.
    pub fn now_us(&self, shard: Shard) -> Option<u64> {
        self.route(shard).now_us()
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What the name of every key begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}
