//! Runs the scripts of `lua/`. One interface covers two stores: Redis for production, and a
//! store inside the process for a server without other services.

mod clock_sample;
mod embedded;
mod key;
mod primary;
mod recovery_log;
mod redis;
mod script;
mod shards;
#[cfg(feature = "simulation")]
mod simulated;
mod store_clock;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::{counter, gauge};
use tokio::sync::{mpsc, watch};
use tracing::{Instrument, Span, debug_span};

use crate::lock::Epoch;

use self::{
    key::{key, write_key},
    primary::Primary,
};

pub use lockable_resp::{BadReply, Reply};

/// How often a server checks whether its stores may have lost grants.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(feature = "simulation")]
pub use self::{
    embedded::Snapshot,
    simulated::{Process, ProcessTask, Simulated, SimulatedConnection, StoreRequest, Transport},
};
pub use self::{
    embedded::{BootClock, Clock, Embedded, TextEntry},
    primary::{RecoveryPhase, RecoveryState, Registration, StoreMatch},
    redis::{Redis, StartError},
    script::Script,
    shards::{ACCOUNTS_TAG, LOCK_TAG, Shard},
};

/// A store that runs scripts atomically, one at a time in each shard.
#[derive(Clone)]
pub enum Store {
    Redis(Arc<Redis>),
    Embedded(Arc<Embedded>),
    #[cfg(feature = "simulation")]
    Simulated(Arc<Simulated>),
}

/// Why a script returned no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The script was not sent, so it did not run.
    #[error("the store cannot be reached: {0}")]
    NotSent(String),
    /// The script was sent and no reply arrived in time: it may have run, or may still run.
    #[error("the store did not answer: {0}")]
    NoAnswer(String),
    /// The store returned an error. The script changed nothing, if the error is accurate.
    #[error("the store refused: {0}")]
    Refused(String),
}

impl Store {
    /// Runs a script. `keys` lists every key that the script accesses.
    ///
    /// # Errors
    /// When no reply arrives within the store's time-out, see [`StoreError`].
    pub async fn eval(&self, script: &'static Script, keys: &[&str], args: &[&str]) -> Result<Reply, StoreError> {
        let begun = Instant::now();
        let reply = match self {
            Self::Redis(redis) => redis.eval(script, keys, args, begun).instrument(span(script)).await,
            Self::Embedded(embedded) => embedded.eval(script, keys, args),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.eval(script, keys, args).await,
        };
        record_outcome(script, begun, &reply);
        reply
    }

    /// Runs a script as [`eval`](Self::eval) does, then waits until the configured number of
    /// replicas have acknowledged its writes.
    ///
    /// # Errors
    /// As for `eval`; also [`StoreError::NoAnswer`] when the script ran, but too few replicas
    /// acknowledged its writes in time.
    pub async fn eval_replicated(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
    ) -> Result<Reply, StoreError> {
        let begun = Instant::now();
        let reply = match self {
            Self::Redis(redis) => redis.eval_replicated(script, keys, args, begun).instrument(span(script)).await,
            Self::Embedded(embedded) => embedded.eval(script, keys, args),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.eval(script, keys, args).await,
        };
        record_outcome(script, begun, &reply);
        reply
    }

    /// The name of a key. Keys with the same `tag` share a hash slot. The name includes the
    /// layout number of keys and values.
    pub fn key(&self, tag: &str, kind: &str, rest: &str) -> String {
        key(self.prefix(), tag, kind, rest)
    }

    /// Appends the name of a key to `text`.
    pub fn write_key(&self, text: &mut String, tag: &str, kind: &str, rest: &str) {
        write_key(text, self.prefix(), tag, kind, rest);
    }

    fn prefix(&self) -> &str {
        match self {
            Self::Redis(redis) => redis.prefix(),
            Self::Embedded(_) => "lockable",
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Simulated::PREFIX,
        }
    }

    /// Subscribes to a channel. Messages are hints: the receiver misses messages while the
    /// connection is down, and messages that it reads too slowly.
    pub fn subscribe(&self, channel: &str) -> mpsc::Receiver<String> {
        match self {
            Self::Redis(redis) => redis.subscribe(channel),
            Self::Embedded(embedded) => embedded.subscribe(channel),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.subscribe(channel),
        }
    }

    /// All shards of locks: one, except in a cluster.
    pub fn shards(&self) -> &'static [Shard] {
        match self {
            Self::Redis(redis) => redis.shards(),
            Self::Embedded(_) => Shard::single(),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Shard::single(),
        }
    }

    /// Stops reconnecting, before shutdown. From now on connections may end without a warning.
    pub fn stop_supervision(&self) {
        match self {
            Self::Redis(redis) => redis.stop_supervision(),
            Self::Embedded(_) => {}
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => {}
        }
    }

    /// Whether locks are distributed over several shards.
    pub fn is_sharded(&self) -> bool {
        self.shards().len() > 1
    }

    /// The shard of a lock key, or of other data that is distributed like locks.
    pub fn shard_of(&self, lock_key: &str) -> Shard {
        Shard::of(lock_key, self.shards())
    }

    /// The clock of a shard's node in microseconds since 1970, or slightly less. It is never
    /// ahead, so that a deadline derived from it is never late. `None` before the first
    /// connection.
    pub fn now_us(&self, shard: Shard) -> Option<u64> {
        match self {
            Self::Redis(redis) => redis.now_us(shard),
            Self::Embedded(embedded) => Some(embedded.now_us()),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.now_us(),
        }
    }

    /// The last known recovery state of a shard; `None` before the first connection.
    pub fn recovery_state(&self, shard: Shard) -> watch::Receiver<Option<RecoveryState>> {
        self.primary(shard).recovery_state()
    }

    /// Fetches the recovery state of a shard. Begins a recovery if grants may have been lost, or if
    /// `registration` requests one.
    ///
    /// # Errors
    /// As for [`eval`](Self::eval).
    pub async fn register_primary(
        &self,
        shard: Shard,
        registration: Registration<'_>,
    ) -> Result<RecoveryState, StoreError> {
        let process = match self {
            Self::Redis(redis) => redis.process(shard).await?,
            Self::Embedded(embedded) => embedded.process(),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.store_process().await?,
        };
        let keys = [self.key(shard.tag, "primary", ""), self.key(shard.tag, "clock", "")];
        let args = self.primary(shard).registration_args(&process, "", registration);
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let reply = self.eval(&primary::REGISTER_PRIMARY, &[&keys[0], &keys[1]], &args).await?;
        self.primary(shard).record_reply(&reply).map_err(|error| StoreError::Refused(error.to_string()))
    }

    /// The start of a shard's current epoch, in microseconds since 1970.
    pub fn epoch_us(&self, shard: Shard) -> u64 {
        self.primary(shard).epoch_us()
    }

    /// Records a fencing token that a shard has issued.
    pub fn record_fence(&self, shard: Shard, fence: u64) {
        self.primary(shard).record_fence(fence);
    }

    /// The largest fencing token of a shard that this server has seen; 0 before the first.
    pub fn last_fence(&self, shard: Shard) -> u64 {
        self.primary(shard).last_fence()
    }

    /// Whether a shard's data is in the store that the database names.
    pub fn store_match(&self, shard: Shard) -> StoreMatch {
        self.primary(shard).store_match()
    }

    /// A shard's epoch at the last comparison that found the store named by the database.
    pub fn last_named_epoch(&self, shard: Shard) -> Option<Epoch> {
        self.primary(shard).last_named_epoch()
    }

    /// Records the result of a comparison with the database.
    pub fn set_store_match(&self, shard: Shard, store_match: StoreMatch) {
        self.primary(shard).set_store_match(store_match);
    }

    fn primary(&self, shard: Shard) -> &Primary {
        match self {
            Self::Redis(redis) => redis.primary(shard),
            Self::Embedded(embedded) => embedded.primary(),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.primary(),
        }
    }

    /// The longest remaining recovery time of any shard, as far as this server knows; `None` when
    /// every shard grants locks.
    pub fn recovery_remaining(&self) -> Option<Duration> {
        self.shards().iter().filter_map(|shard| self.primary(*shard).remaining()).max()
    }

    /// The remaining recovery time of one shard, as far as this server knows.
    pub fn recovery_remaining_in(&self, shard: Shard) -> Option<Duration> {
        self.primary(shard).remaining()
    }

    /// Whether a shard has a connection, as far as this server knows.
    pub fn is_connected(&self, shard: Shard) -> bool {
        match self {
            Self::Redis(redis) => redis.is_connected(shard),
            Self::Embedded(_) => true,
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.is_connected(),
        }
    }

    /// Whether the node with the cached accounts has a connection, as far as this server knows.
    pub fn is_accounts_node_connected(&self) -> bool {
        match self {
            Self::Redis(redis) => redis.is_accounts_node_connected(),
            Self::Embedded(_) => true,
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.is_connected(),
        }
    }

    /// Whether at least one shard has a connection, as far as this server knows.
    pub fn is_reachable(&self) -> bool {
        match self {
            Self::Redis(redis) => redis.is_reachable(),
            Self::Embedded(_) => true,
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.is_connected(),
        }
    }

    /// Updates the gauges of the store. `lockable_store_up` is 0 while any node is unreachable.
    pub fn record_metrics(&self) {
        gauge!("lockable_recovering").set(f64::from(u8::from(self.recovery_remaining().is_some())));
        let is_foreign = |shard: &Shard| self.store_match(*shard) == StoreMatch::Foreign;
        gauge!("lockable_store_foreign").set(self.shards().iter().filter(|shard| is_foreign(shard)).count() as f64);
        let is_up = match self {
            Self::Redis(redis) => redis.is_fully_reachable(),
            Self::Embedded(_) => true,
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.is_connected(),
        };
        gauge!("lockable_store_up").set(f64::from(u8::from(is_up)));
        match self {
            Self::Redis(redis) => redis.record_metrics(),
            Self::Embedded(embedded) => gauge!("lockable_embedded_bytes").set(embedded.bytes() as f64),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => {}
        }
    }

    /// Binds a task to the simulated server process. In other builds it returns the task
    /// unchanged: only a simulator runs several servers in one process.
    #[cfg(not(feature = "simulation"))]
    #[expect(clippy::unused_self, reason = "the simulator's version uses it")]
    pub(crate) fn on_process<F: Future>(&self, task: F) -> F {
        task
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn on_process<F: Future>(&self, task: F) -> ProcessTask<F> {
        let process = match self {
            Self::Simulated(simulated) => Some(simulated.process().clone()),
            Self::Redis(_) | Self::Embedded(_) => None,
        };
        ProcessTask::new(process, task)
    }

    /// How long to wait for a script's reply.
    pub fn timeout(&self) -> Duration {
        match self {
            Self::Redis(redis) => redis.timeout(),
            Self::Embedded(_) => Duration::from_secs(1),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Simulated::TIMEOUT,
        }
    }
}

/// The trace span of a script. It has the script's name, and no account, lock or argument.
fn span(script: &'static Script) -> Span {
    debug_span!(target: "lockable::spans", "redis", otel.kind = "client", db.system.name = "redis", db.operation.name = script.name)
}

fn record_outcome(script: &'static Script, begun: Instant, reply: &Result<Reply, StoreError>) {
    script.durations().record(begun.elapsed());
    let kind = match reply {
        Ok(_) => return,
        Err(StoreError::NotSent(_)) => "not_sent",
        Err(StoreError::NoAnswer(_)) => "no_answer",
        Err(StoreError::Refused(_)) => "refused",
    };
    counter!("lockable_store_errors_total", "kind" => kind).increment(1);
}
