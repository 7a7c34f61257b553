use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU32};

use lockable_boot_time::BootTime;
use redis::aio::MultiplexedConnection;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::backoff,
    checked_node::CheckedNode,
    command_error::CommandError,
    discovery::{Discovery, LocatedServer},
    per_runtime::RuntimeConnections,
    server_info::{StartError, check_server},
    tag_handle::ServedTags,
    topology::HostPort,
};
use crate::store::{CHECK_INTERVAL, Registration, StoreError, clock_sample::ClockSample, shards::LOCK_TAG};

/// Keeps the connections to one server, and sets it as the node of its hash tags while it
/// passes all checks.
pub(super) struct Supervisor {
    config: SupervisorConfig,
    /// The address of the connected server, or else of its topology, without secrets.
    shown: String,
}

/// The server to connect to, and the connections to open.
pub(super) struct SupervisorConfig {
    pub(super) discovery: Arc<Discovery>,
    /// The node of a cluster; otherwise discovery finds the server.
    pub(super) node: Option<HostPort>,
    pub(super) tags: Arc<ServedTags>,
    /// The runtimes that run scripts. Each has its own connection.
    pub(super) runtimes: Vec<Handle>,
    /// The largest number of pooled connections.
    pub(super) pool_size: u32,
}

impl Supervisor {
    /// Connects, and reconnects until `stop`.
    ///
    /// # Errors
    /// When the server must not be used. An unreachable server is retried in the background.
    pub(super) async fn start(config: SupervisorConfig, stop: CancellationToken) -> Result<(), StartError> {
        let mut supervisor = Self { shown: config.discovery.shown().to_owned(), config };
        // Connect before the first request, not when the task is first polled.
        let first = match supervisor.connect().await {
            Ok(node) => Some(node),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, redis = supervisor.shown, "waiting for Redis");
                None
            }
            Err(error) => return Err(error),
        };
        tokio::spawn(supervisor.run_until(stop, first));
        Ok(())
    }

    /// As [`start`](Self::start), but connects in the background.
    pub(super) fn spawn(config: SupervisorConfig, stop: CancellationToken) {
        let supervisor = Self { shown: config.discovery.shown().to_owned(), config };
        tokio::spawn(supervisor.run_until(stop, None));
    }

    async fn run_until(self, stop: CancellationToken, first: Option<Arc<CheckedNode>>) {
        tokio::select! {
            // `stop` comes first: connections that end after it are no warning.
            biased;
            () = stop.cancelled() => {}
            () = self.run(first) => {}
        }
    }

    async fn run(mut self, first: Option<Arc<CheckedNode>>) {
        let mut next = first;
        loop {
            let node = match next.take() {
                Some(node) => node,
                None => self.reconnect().await,
            };
            let reason = self.watch(&node).await;
            self.config.tags.disconnect_all();
            tracing::warn!(redis = self.shown, reason, "lost the connection to Redis");
        }
    }

    /// Retries until a server passes all checks. Logs an error only when it differs from the
    /// last one.
    async fn reconnect(&mut self) -> Arc<CheckedNode> {
        let mut delays = backoff();
        let mut last_logged = String::new();
        loop {
            let error = match self.connect().await {
                Ok(node) => {
                    tracing::info!(redis = self.shown, "connected to Redis");
                    return node;
                }
                Err(error) => error,
            };
            let message = error.to_string();
            if message != last_logged {
                match error.is_transient() {
                    true => tracing::warn!(%error, "waiting for Redis"),
                    false => tracing::error!(%error, "Redis must not be used; change its settings"),
                }
                last_logged = message;
            }
            sleep(delays.next().unwrap_or_default()).await;
        }
    }

    async fn connect(&mut self) -> Result<Arc<CheckedNode>, StartError> {
        let located = self.locate().await?;
        let mut connection = located.address.connect().await?;
        let identity = check_server(&mut connection).await?;
        self.shown.clone_from(&located.address.shown);
        let broken = CancellationToken::new();
        let node = Arc::new(CheckedNode {
            scripts: RuntimeConnections::open(&located.address, &identity.run_id, &self.config.runtimes, &broken)
                .await?,
            pool: located.address.pool(self.config.pool_size, identity.run_id.clone())?,
            connection: connection.clone(),
            located,
            tags: self.config.tags.clone(),
            identity: Mutex::new(identity),
            timeouts_in_a_row: AtomicU32::new(0),
            broken,
        });
        // Before any script: the data of this server may be old.
        self.register(&mut connection, &node, "").await?;
        Ok(node)
    }

    async fn locate(&self) -> Result<LocatedServer, StartError> {
        match &self.config.node {
            Some(host_port) => self.config.discovery.at(host_port),
            None => self.config.discovery.locate(LOCK_TAG).await,
        }
    }

    /// Checks the connection until it must be replaced. Returns the reason.
    async fn watch(&mut self, node: &Arc<CheckedNode>) -> String {
        let mut connection = node.connection.clone();
        loop {
            tokio::select! {
                () = node.broken.cancelled() => return "a command failed".into(),
                () = sleep(CHECK_INTERVAL) => {}
                () = self.config.tags.changed.notified() => {}
            }
            if let Err(error) = self.check_node(&mut connection, node).await {
                return error.to_string();
            }
        }
    }

    /// Checks that this is still the same server, with its data.
    async fn check_node(
        &mut self,
        connection: &mut MultiplexedConnection,
        node: &Arc<CheckedNode>,
    ) -> Result<(), StartError> {
        // In a cluster `ClusterNodes` follows the topology.
        if self.config.node.is_none()
            && let Some(moved) = self.config.discovery.has_moved(LOCK_TAG, &node.located).await
        {
            return Err(StartError::Moved(moved));
        }
        let identity = check_server(connection).await?;
        let before =
            std::mem::replace(&mut *node.identity.lock().unwrap_or_else(PoisonError::into_inner), identity.clone());
        let former = if identity.is_renamed(&before) { before.process() } else { String::new() };
        self.register(connection, node, &former).await?;
        node.scripts.ping(Instant::now() + node.located.address.timeout()).await
    }

    /// Registers the server as the primary of its tags, and sets it as their node.
    ///
    /// Leases expire by the server's clock. After a clock jump leases expire too early, or new
    /// fencing tokens are smaller than old ones. Therefore an epoch begins before a handle gets
    /// the new time; until then its commands miss their deadlines.
    async fn register(
        &self,
        connection: &mut MultiplexedConnection,
        node: &Arc<CheckedNode>,
        former: &str,
    ) -> Result<(), StartError> {
        let sample = sample_clock(connection).await?;
        let (tags, process) = (&self.config.tags, node.identity().process());
        let handles = tags.handles();
        let jump_max = node.located.address.jump_max();
        let jumps: Vec<_> = handles.iter().map(|handle| handle.jump(&sample, jump_max)).collect();
        if let Some(jump) = jumps.iter().flatten().next() {
            tracing::warn!(seconds = jump.seconds, redis = self.shown, "the clock of Redis has jumped");
        }
        for (handle, jump) in handles.iter().zip(jumps) {
            let jumped = jump.zip(handle.primary().epoch());
            let registration = jumped
                .as_ref()
                .map_or(Registration::Check, |(jump, epoch)| Registration::ClockJumped(epoch, &jump.before_us));
            match handle.register_primary(connection, &process, former, registration).await {
                Ok(()) => {
                    handle.record_time(sample);
                    tags.connect(handle, node);
                }
                Err(CommandError::NotMaster(_)) if tags.is_cluster_node() => tags.remove_lost(handle),
                Err(error) => return Err(StartError::Unreachable(StoreError::from(error).to_string())),
            }
        }
        Ok(())
    }
}

async fn sample_clock(connection: &mut MultiplexedConnection) -> redis::RedisResult<ClockSample> {
    let sent_at = BootTime::now();
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
    Ok(ClockSample::new(seconds * 1_000_000 + micros, sent_at))
}
