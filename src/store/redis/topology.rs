use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{FromRedisValue, RedisError, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::{address::Address, server_info::StartError};
use crate::store::shards::slot;

/// The servers that know the topology. The last one that replied comes first.
pub(super) struct Topology {
    servers: Mutex<Vec<Address>>,
    /// The largest configuration epoch that a Sentinel has reported.
    newest_epoch: AtomicU64,
}

#[derive(Clone, Copy)]
pub(super) enum TopologyQuery<'a> {
    /// Asks a Sentinel for the master with this name.
    SentinelMaster { master: &'a str },
    /// Asks a cluster node for the master of each slot.
    ClusterSlots,
}

/// A server's host and port.
pub(super) type HostPort = (String, u16);

/// The master of each range of hash slots.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SlotMap(Vec<(RangeInclusive<u16>, HostPort)>);

impl SlotMap {
    /// The master of the keys with this hash tag.
    pub(super) fn of(&self, tag: &str) -> Option<&HostPort> {
        let slot = slot(tag);
        self.0.iter().find(|(slots, _)| slots.contains(&slot)).map(|(_, host_port)| host_port)
    }
}

impl Topology {
    /// The time-out of one server.
    const QUERY_TIMEOUT: Duration = Duration::from_millis(500);

    pub(super) fn new(servers: Vec<Address>) -> Self {
        Self { servers: Mutex::new(servers), newest_epoch: AtomicU64::new(0) }
    }

    /// Queries one server after another until one returns the topology.
    pub(super) async fn query(&self, query: TopologyQuery<'_>) -> Result<SlotMap, StartError> {
        let mut last = StartError::Unreachable("no Sentinel or cluster node knows the master".into());
        for server in self.all() {
            let attempt = async {
                let mut connection = server.connect().await?;
                match query {
                    TopologyQuery::SentinelMaster { master } => {
                        query_sentinel(&mut connection, master, &self.newest_epoch).await
                    }
                    TopologyQuery::ClusterSlots => query_node(&mut connection, server.host()).await,
                }
            };
            match timeout(Self::QUERY_TIMEOUT, attempt).await {
                Ok(Ok(Some(slot_map))) => {
                    self.prefer(&server);
                    return Ok(slot_map);
                }
                Ok(Ok(None)) => last = StartError::Unreachable(format!("{} does not know the master", server.shown)),
                Ok(Err(error)) => last = StartError::from(error),
                Err(_) => last = StartError::Unreachable(format!("{} did not reply in time", server.shown)),
            }
        }
        Err(last)
    }

    pub(super) fn all(&self) -> Vec<Address> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves a server to the front.
    pub(super) fn prefer(&self, address: &Address) {
        /// Nodes change over time; the last ones that replied are enough.
        const SERVERS_MAX: usize = 32;
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|other| other.shown != address.shown);
        servers.insert(0, address.clone());
        servers.truncate(SERVERS_MAX);
    }
}

/// Queries a Sentinel. Ignores a reply with an older configuration epoch than another Sentinel
/// has reported: that Sentinel may be partitioned together with the old master.
async fn query_sentinel(
    sentinel: &mut MultiplexedConnection,
    master: &str,
    newest_epoch: &AtomicU64,
) -> Result<Option<SlotMap>, RedisError> {
    let fields: HashMap<String, String> =
        redis::cmd("SENTINEL").arg("MASTER").arg(master).query_async(sentinel).await?;
    let field = |name: &str| fields.get(name);
    let (Some(host), Some(port)) = (field("ip"), field("port").and_then(|port| port.parse().ok())) else {
        return Ok(None);
    };
    let epoch = field("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Ok((newest_epoch.fetch_max(epoch, Ordering::Relaxed) <= epoch)
        .then(|| SlotMap(vec![(0..=u16::MAX, (host.clone(), port))])))
}

/// Queries a cluster node. Each range of slots lists its first and last slot, then its nodes,
/// each with host, port and more; the master comes first. A node may not know its own host.
async fn query_node(node: &mut MultiplexedConnection, host: &str) -> Result<Option<SlotMap>, RedisError> {
    // A partitioned node returns an old slot map.
    let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(node).await?;
    if !info.contains("cluster_state:ok") {
        return Ok(None);
    }
    let ranges: Vec<Vec<redis::Value>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(node).await?;
    let mut slot_map = SlotMap::default();
    for range in ranges {
        let [first, last, master, ..] = &range[..] else { continue };
        let slots = u16::from_redis_value_ref(first)?..=u16::from_redis_value_ref(last)?;
        let master = Vec::<redis::Value>::from_redis_value_ref(master)?;
        let [name, port, ..] = &master[..] else { continue };
        let name = Option::<String>::from_redis_value_ref(name)?.filter(|name| !name.is_empty() && name != "?");
        let host_port = (name.unwrap_or_else(|| host.to_owned()), u16::from_redis_value_ref(port)?);
        slot_map.0.push((slots, host_port));
    }
    Ok(Some(slot_map))
}
