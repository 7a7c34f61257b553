//! The store in Redis.

mod address;
mod backoff;
mod checked_node;
mod command_error;
mod connect;
mod discovery;
mod eval;
mod nodes;
mod per_runtime;
mod pooled;
mod server_info;
mod subscriptions;
mod supervisor;
mod tag_handle;
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
    checked_node::CheckedNode,
    command_error::CommandError,
    discovery::Discovery,
    eval::eval,
    nodes::{ClusterNodes, ConnectionConfig},
    subscriptions::Subscriptions,
    supervisor::{Supervisor, SupervisorConfig},
    tag_handle::{ServedTags, TagHandle},
};
use super::{
    Reply, Script, StoreError,
    key::key,
    primary::Primary,
    shards::{ACCOUNTS_TAG, Shard},
};
use crate::config::RedisSettings;

pub use self::server_info::StartError;

/// A Redis or Valkey server, a set of servers under Sentinel, or a cluster.
///
/// All scripts that one runtime runs on one server share a connection. At 64 clients this was
/// measured to be twice as fast as a pool, at half the cost on both sides. The pool serves
/// commands that block their connection.
pub struct Redis {
    shards: &'static [Shard],
    /// The handle of all locks, or of the first shard's locks.
    first_shard: Arc<TagHandle>,
    /// In a cluster, the handles of the other shards, in their order.
    other_shards: Vec<Arc<TagHandle>>,
    /// In a cluster, the handle of the cached accounts.
    accounts: Option<Arc<TagHandle>>,
    subscriptions: Subscriptions,
    prefix: String,
    timeout: Duration,
    wait_replicas: u32,
    tasks: DropGuard,
}

impl Redis {
    /// The pause before a retry, after a node has rejected a script that it does not serve.
    const NOT_MASTER_BACKOFF: Duration = Duration::from_millis(20);

    /// Connects, and reconnects until dropped. While a server is unreachable, it retries in the
    /// background. Each of the `runtimes` has its own connection; other threads use the first.
    ///
    /// # Errors
    /// When the address is invalid, or the server must not be used: an old version, an eviction
    /// policy, or wrong credentials.
    pub async fn start(settings: &RedisSettings, runtimes: &[Handle]) -> Result<Arc<Self>, StartError> {
        let url = settings.url.as_ref().ok_or(StartError::NoAddress)?;
        let discovery = Arc::new(Discovery::parse(url, settings.timeout)?);
        let stop = CancellationToken::new();
        let subscriptions = Subscriptions::start(discovery.clone(), stop.clone());
        let shards = if discovery.is_cluster() { Shard::of_cluster() } else { Shard::single() };
        let events = discovery.is_cluster().then(Arc::default);
        let new_handle = |shard: &Shard| {
            let keys = ["primary", "clock"].map(|kind| key(&settings.prefix, shard.tag, kind, ""));
            Arc::new(TagHandle::with_grants(shard.tag, keys, events.clone()))
        };
        let mut handles = shards.iter().map(new_handle);
        let first = handles.next().ok_or(StartError::NoAddress)?;
        let other_shards: Vec<_> = handles.collect();
        let (runtimes, pool_size) = (runtimes.to_vec(), settings.pool_size);
        let accounts = if discovery.is_cluster() {
            let accounts = Arc::new(TagHandle::new(ACCOUNTS_TAG));
            let all = std::iter::once(&first).chain(&other_shards).chain([&accounts]).cloned().collect();
            ClusterNodes::start(ConnectionConfig { discovery, runtimes, pool_size }, all, stop.clone()).await?;
            Some(accounts)
        } else {
            let tags = ServedTags::all(first.clone());
            Supervisor::start(SupervisorConfig { discovery, node: None, tags, runtimes, pool_size }, stop.clone())
                .await?;
            None
        };
        Ok(Arc::new(Self {
            shards,
            first_shard: first,
            other_shards,
            accounts,
            subscriptions,
            prefix: settings.prefix.clone(),
            timeout: settings.timeout,
            wait_replicas: settings.wait_replicas,
            tasks: stop.drop_guard(),
        }))
    }

    /// Runs a script within the time-out from `begun`, which includes the connection. It retries
    /// a script that a node has rejected because the keys are on another node or are moving to
    /// one: such a script has not run.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn eval(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
        begun: std::time::Instant,
    ) -> Result<Reply, StoreError> {
        let deadline = Instant::from_std(begun) + self.timeout;
        let handle = self.handle_for(keys);
        loop {
            let node = handle.node(deadline).await?;
            match eval(&mut (node.pipeline(), deadline), script, keys, args).await {
                Ok(reply) => {
                    node.record_reply();
                    return Ok(reply);
                }
                Err(error) => {
                    handle.record_error(&node, &error);
                    let retry_at = Instant::now() + Self::NOT_MASTER_BACKOFF;
                    if !matches!(error, CommandError::NotMaster(_)) || retry_at > deadline {
                        return Err(error.into());
                    }
                    // Boxed, so that the futures of other requests stay small.
                    Box::pin(sleep_until(retry_at)).await;
                }
            }
        }
    }

    /// Stops the supervisors of all connections.
    pub(super) fn stop_supervision(&self) {
        self.tasks.token().cancel();
    }

    /// All shards of locks.
    pub(super) fn shards(&self) -> &'static [Shard] {
        self.shards
    }

    pub(super) fn primary(&self, shard: Shard) -> &Primary {
        self.handle(shard).primary()
    }

    /// The identity of the process that serves a shard, from its last check.
    ///
    /// # Errors
    /// When there is no connection in time.
    pub(super) async fn process(&self, shard: Shard) -> Result<String, StoreError> {
        let node = self.handle(shard).node(Instant::now() + self.timeout).await?;
        Ok(node.identity().process())
    }

    /// Subscribes to a channel for the life of the receiver.
    pub fn subscribe(&self, channel: &str) -> mpsc::Receiver<String> {
        self.subscriptions.add(channel)
    }

    /// Whether the node that serves this shard has a connection.
    pub(super) fn is_connected(&self, shard: Shard) -> bool {
        self.handle(shard).is_connected()
    }

    /// Whether the node that serves the cached accounts has a connection.
    pub(super) fn is_accounts_node_connected(&self) -> bool {
        self.accounts.as_ref().unwrap_or(&self.first_shard).is_connected()
    }

    /// Whether at least one shard has a connection to a checked node.
    pub fn is_reachable(&self) -> bool {
        self.handles().any(|handle| handle.is_connected())
    }

    /// Whether all shards have one.
    pub fn is_fully_reachable(&self) -> bool {
        self.handles().all(|handle| handle.is_connected())
    }

    fn handles(&self) -> impl Iterator<Item = &Arc<TagHandle>> {
        std::iter::once(&self.first_shard).chain(&self.other_shards)
    }

    fn handle(&self, shard: Shard) -> &TagHandle {
        shard.number.checked_sub(1).and_then(|number| self.other_shards.get(number)).unwrap_or(&self.first_shard)
    }

    /// The handle of these keys, which share a hash tag.
    fn handle_for(&self, keys: &[&str]) -> &TagHandle {
        let Some(accounts) = &self.accounts else { return &self.first_shard };
        let tag = keys.first().and_then(|key| key.split(['{', '}']).nth(1)).unwrap_or_default();
        Shard::with_tag(tag).map_or(accounts, |shard| self.handle(shard))
    }

    /// Updates the gauges of the pools.
    pub fn record_metrics(&self) {
        let mut nodes: Vec<Arc<CheckedNode>> = self.handles().filter_map(|handle| handle.current_node()).collect();
        nodes.sort_by_key(Arc::as_ptr);
        nodes.dedup_by_key(|node| Arc::as_ptr(node));
        let sum = |count: fn(Status) -> usize| nodes.iter().map(|node| count(node.pool.status())).sum::<usize>() as f64;
        gauge!("lockable_redis_pool_connections", "state" => "idle").set(sum(|status| status.available));
        gauge!("lockable_redis_pool_connections", "state" => "used")
            .set(sum(|status| status.size.saturating_sub(status.available)));
    }

    /// The clock of the node that serves this shard, in microseconds since 1970, or slightly less.
    pub fn now_us(&self, shard: Shard) -> Option<u64> {
        self.handle(shard).now_us()
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The prefix of all key names.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}
