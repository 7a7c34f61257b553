use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    discovery::Discovery,
    server_info::StartError,
    supervisor::{Supervisor, SupervisorConfig},
    tag_handle::{ServedTags, TagHandle},
    topology::{HostPort, SlotMap},
};
use crate::store::CHECK_INTERVAL;

/// The nodes of a cluster. Each node that serves some of the hash tags has one supervisor. When
/// a slot moves to another node, its handle follows.
pub(super) struct ClusterNodes {
    config: ConnectionConfig,
    /// The handles of all hash tags.
    handles: Vec<Arc<TagHandle>>,
    nodes: HashMap<HostPort, SupervisedNode>,
    /// Notified when a handle has lost its node.
    tag_lost: Arc<Notify>,
    stop: CancellationToken,
}

/// The settings that all supervisors share.
pub(super) struct ConnectionConfig {
    pub(super) discovery: Arc<Discovery>,
    pub(super) runtimes: Vec<Handle>,
    pub(super) pool_size: u32,
}

struct SupervisedNode {
    tags: Arc<ServedTags>,
    _stop: DropGuard,
}

impl ClusterNodes {
    /// The longest and the shortest pause between two topology queries while a handle has no node.
    const SEARCH_INTERVAL: Duration = Duration::from_millis(200);
    const SEARCH_DELAY: Duration = Duration::from_millis(20);

    /// Connects to all masters, and assigns the handles to them until `stop`.
    ///
    /// # Errors
    /// When a node must not be used. Unreachable nodes are retried in the background.
    pub(super) async fn start(
        config: ConnectionConfig,
        handles: Vec<Arc<TagHandle>>,
        stop: CancellationToken,
    ) -> Result<(), StartError> {
        let mut nodes = Self { config, handles, nodes: HashMap::new(), tag_lost: Arc::default(), stop: stop.clone() };
        match nodes.config.discovery.slot_map().await {
            Ok(slot_map) => {
                let supervisors =
                    nodes.assign(&slot_map).into_iter().map(|(supervisor, stop)| Supervisor::start(supervisor, stop));
                try_join_all(supervisors).await?;
            }
            Err(error) if error.is_transient() => tracing::warn!(%error, "waiting for Redis"),
            Err(error) => return Err(error),
        }
        tokio::spawn(async move { stop.run_until_cancelled(nodes.run()).await });
        Ok(())
    }

    async fn run(mut self) {
        loop {
            match self.config.discovery.slot_map().await {
                Ok(slot_map) => {
                    for (supervisor, stop) in self.assign(&slot_map) {
                        Supervisor::spawn(supervisor, stop);
                    }
                }
                Err(error) => tracing::debug!(%error, "the cluster topology is unknown"),
            }
            self.wait_for_change().await;
        }
    }

    /// Waits for the next topology query: for less time while a handle has no node.
    async fn wait_for_change(&self) {
        let are_all_connected = self.handles.iter().all(|handle| handle.is_connected());
        let pause = if are_all_connected { CHECK_INTERVAL } else { Self::SEARCH_INTERVAL };
        if timeout(pause, self.tag_lost.notified()).await.is_ok() {
            sleep(Self::SEARCH_DELAY).await;
        }
    }

    /// Assigns each handle to the master of its slot; a handle without a known master keeps its
    /// node. Returns the configurations of new supervisors, with the tokens that stop them.
    fn assign(&mut self, slot_map: &SlotMap) -> Vec<(SupervisorConfig, CancellationToken)> {
        let mut new = Vec::new();
        for handle in &self.handles {
            let Some(host_port) = slot_map.of(handle.tag()) else { continue };
            for (_, node) in self.nodes.iter().filter(|(other, _)| *other != host_port) {
                node.tags.remove(handle);
            }
            let node = self.nodes.entry(host_port.clone()).or_insert_with(|| {
                let (tags, stop) = (ServedTags::of_node(self.tag_lost.clone()), self.stop.child_token());
                let supervisor = self.config.for_node(host_port.clone(), tags.clone());
                new.push((supervisor, stop.clone()));
                SupervisedNode { tags, _stop: stop.drop_guard() }
            });
            node.tags.add(handle);
        }
        self.nodes.retain(|_, node| !node.tags.is_empty());
        new
    }
}

impl ConnectionConfig {
    fn for_node(&self, host_port: HostPort, tags: Arc<ServedTags>) -> SupervisorConfig {
        SupervisorConfig {
            discovery: self.discovery.clone(),
            node: Some(host_port),
            tags,
            runtimes: self.runtimes.clone(),
            pool_size: self.pool_size,
        }
    }
}
