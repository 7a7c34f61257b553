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

/// Servers that can be asked, the one that answered last at first.
pub(super) struct Advisers {
    known: Mutex<Vec<Address>>,
    /// The newest configuration that a sentinel has told of.
    newest: AtomicU64,
}

#[derive(Clone, Copy)]
pub(super) enum Question<'a> {
    /// To a sentinel.
    WhereIs { master: &'a str },
    /// To a node of a cluster.
    WhoHasWhat,
}

/// A server's host and port.
pub(super) type Place = (String, u16);

/// Who is the master of which hash slots.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Masters(Vec<(RangeInclusive<u16>, Place)>);

impl Masters {
    /// The master of the keys with this hash tag, if there is one.
    pub(super) fn of(&self, tag: &str) -> Option<&Place> {
        let slot = slot(tag);
        self.0.iter().find(|(slots, _)| slots.contains(&slot)).map(|(_, place)| place)
    }
}

impl Advisers {
    /// How long one server may take to say where the master is.
    const ASK_TIMEOUT: Duration = Duration::from_millis(500);

    pub(super) fn new(servers: Vec<Address>) -> Self {
        Self { known: Mutex::new(servers), newest: AtomicU64::new(0) }
    }

    /// Asks one after another until one knows.
    pub(super) async fn ask(&self, question: Question<'_>) -> Result<Masters, StartError> {
        let mut last = StartError::Away("nobody knows where the master is".into());
        for adviser in self.all() {
            let asked = async {
                let mut connection = adviser.connect().await?;
                match question {
                    Question::WhereIs { master } => ask_sentinel(&mut connection, master, &self.newest).await,
                    Question::WhoHasWhat => ask_node(&mut connection, adviser.host()).await,
                }
            };
            match timeout(Self::ASK_TIMEOUT, asked).await {
                Ok(Ok(Some(answer))) => {
                    self.learn(&adviser);
                    return Ok(answer);
                }
                Ok(Ok(None)) => last = StartError::Away(format!("{} does not know the master", adviser.shown)),
                Ok(Err(error)) => last = StartError::from(error),
                Err(_) => last = StartError::Away(format!("{} did not answer", adviser.shown)),
            }
        }
        Err(last)
    }

    pub(super) fn all(&self) -> Vec<Address> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has this one asked first.
    pub(super) fn learn(&self, address: &Address) {
        /// Nodes come and go; those that answered last are enough.
        const KNOWN_MAX: usize = 32;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|other| other.shown != address.shown);
        known.insert(0, address.clone());
        known.truncate(KNOWN_MAX);
    }
}

/// Asks a sentinel, whose word is not taken when another has said something newer:
/// it may be cut off together with the old master.
async fn ask_sentinel(
    sentinel: &mut MultiplexedConnection,
    master: &str,
    newest: &AtomicU64,
) -> Result<Option<Masters>, RedisError> {
    let known: HashMap<String, String> = redis::cmd("SENTINEL").arg("MASTER").arg(master).query_async(sentinel).await?;
    let field = |name: &str| known.get(name);
    let (Some(host), Some(port)) = (field("ip"), field("port").and_then(|port| port.parse().ok())) else {
        return Ok(None);
    };
    let epoch = field("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Ok((newest.fetch_max(epoch, Ordering::Relaxed) <= epoch)
        .then(|| Masters(vec![(0..=u16::MAX, (host.clone(), port))])))
}

/// Asks a node of a cluster: of each range of slots it knows the first, the last,
/// and who has it, the master at first, each with host, port and more. It may not
/// know by which host it is reached itself.
async fn ask_node(node: &mut MultiplexedConnection, host: &str) -> Result<Option<Masters>, RedisError> {
    // One that is cut off knows who had the slots when it was.
    let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(node).await?;
    if !info.contains("cluster_state:ok") {
        return Ok(None);
    }
    let ranges: Vec<Vec<redis::Value>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(node).await?;
    let mut masters = Masters::default();
    for range in ranges {
        let [first, last, master, ..] = &range[..] else { continue };
        let slots = u16::from_redis_value_ref(first)?..=u16::from_redis_value_ref(last)?;
        let master = Vec::<redis::Value>::from_redis_value_ref(master)?;
        let [name, port, ..] = &master[..] else { continue };
        let name = Option::<String>::from_redis_value_ref(name)?.filter(|name| !name.is_empty() && name != "?");
        let place = (name.unwrap_or_else(|| host.to_owned()), u16::from_redis_value_ref(port)?);
        masters.0.push((slots, place));
    }
    Ok(Some(masters))
}
