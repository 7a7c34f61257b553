//! Where scripts run. Two stores stand behind one small interface: Redis for
//! production, and one in the process for a server that needs nothing else.
//! Both run the same files from `lua/`.

mod clock_sample;
mod embedded;
mod key;
mod primary;
mod recovery_log;
mod redis;
mod reply;
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
    primary::Home,
};

/// How often it is looked whether grants may have been forgotten.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(feature = "simulation")]
pub use self::{
    embedded::Snapshot,
    simulated::{Connection, OnProcess, Process, Question, Simulated, Transport},
};
pub use self::{
    embedded::{BootClock, Clock, Embedded, Kept},
    primary::{Arrival, Belonging, Standing, State},
    redis::{Redis, StartError},
    reply::{BadReply, Reply},
    script::Script,
    shards::{ACCOUNTS_TAG, LOCK_TAG, Shard},
};

/// A place in which scripts run one at a time, each as a whole.
#[derive(Clone)]
pub enum Store {
    Redis(Arc<Redis>),
    Embedded(Arc<Embedded>),
    #[cfg(feature = "simulation")]
    Simulated(Arc<Simulated>),
}

/// Why a script gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing was sent, so nothing can have happened.
    #[error("the store cannot be reached: {0}")]
    NotSent(String),
    /// The script was sent and no answer came in time: it may have run, or may
    /// run yet.
    #[error("the store did not answer: {0}")]
    NoAnswer(String),
    /// The store answered with an error and did nothing, as far as it says.
    #[error("the store refused: {0}")]
    Refused(String),
}

impl Store {
    /// Runs a script. Every key that it touches is in `keys`.
    ///
    /// # Errors
    /// When no answer came within the store's time-out, see [`StoreError`].
    pub async fn run(&self, script: &'static Script, keys: &[&str], args: &[&str]) -> Result<Reply, StoreError> {
        let begun = Instant::now();
        let reply = match self {
            Self::Redis(redis) => redis.run(script, keys, args, begun).instrument(span(script)).await,
            Self::Embedded(embedded) => embedded.run(script, keys, args),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.run(script, keys, args).await,
        };
        measure(script, begun, &reply);
        reply
    }

    /// Like [`run`](Self::run), and answers only once as many replicas have
    /// what the script wrote as the settings ask for.
    ///
    /// # Errors
    /// As `run`; [`StoreError::NoAnswer`] also when too few replicas have
    /// acknowledged in time, although the script has run.
    pub async fn run_replicated(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
    ) -> Result<Reply, StoreError> {
        let begun = Instant::now();
        let reply = match self {
            Self::Redis(redis) => redis.run_replicated(script, keys, args, begun).instrument(span(script)).await,
            Self::Embedded(embedded) => embedded.run(script, keys, args),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.run(script, keys, args).await,
        };
        measure(script, begun, &reply);
        reply
    }

    /// The name of a key: keys with the same `tag` share a hash slot, and the
    /// number says which layout of keys and values this is.
    pub fn key(&self, tag: &str, kind: &str, rest: &str) -> String {
        key(self.prefix(), tag, kind, rest)
    }

    /// Writes the name of a key behind a text.
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

    /// Listens to a channel. Messages are a hint: those sent while the
    /// connection was away, or faster than they were read, are lost.
    pub fn subscribe(&self, channel: &str) -> mpsc::Receiver<String> {
        match self {
            Self::Redis(redis) => redis.subscribe(channel),
            Self::Embedded(embedded) => embedded.subscribe(channel),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.subscribe(channel),
        }
    }

    /// All shards that locks are in: one, unless it is a cluster.
    pub fn shards(&self) -> &'static [Shard] {
        match self {
            Self::Redis(redis) => redis.shards(),
            Self::Embedded(_) => Shard::only(),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Shard::only(),
        }
    }

    /// Looks after the connections no longer, as nothing is to be asked any more:
    /// that they end is then as it should be.
    pub fn leave(&self) {
        match self {
            Self::Redis(redis) => redis.leave(),
            Self::Embedded(_) => {}
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => {}
        }
    }

    /// Whether locks are spread over several shards.
    pub fn is_spread(&self) -> bool {
        self.shards().len() > 1
    }

    /// The shard of a lock, by its place, or of what else is kept in one.
    pub fn shard_of(&self, place: &str) -> Shard {
        Shard::of(place, self.shards())
    }

    /// The time in microseconds since 1970 where a shard is, or a little less;
    /// never ahead of it, so that a deadline counted from here is not late.
    /// `None` while it is not known, before the first connection.
    pub fn now_us(&self, shard: Shard) -> Option<u64> {
        match self {
            Self::Redis(redis) => redis.now_us(shard),
            Self::Embedded(embedded) => Some(embedded.now_us()),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.now_us(),
        }
    }

    /// How the grants of a shard stand, as far as is known; `None` before it was
    /// reached.
    pub fn standing(&self, shard: Shard) -> watch::Receiver<Option<Standing>> {
        self.home(shard).standing()
    }

    /// Asks how the grants of a shard stand, and begins a recovery where some may have been
    /// forgotten, or where `arrival` wants one.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn arrive(&self, shard: Shard, arrival: Arrival<'_>) -> Result<Standing, StoreError> {
        let process = match self {
            Self::Redis(redis) => redis.process(shard).await?,
            Self::Embedded(embedded) => embedded.process(),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.store().await?,
        };
        let keys = [self.key(shard.tag, "home", ""), self.key(shard.tag, "clock", "")];
        let args = self.home(shard).arrive_args(&process, "", arrival);
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let reply = self.run(&primary::ARRIVE, &[&keys[0], &keys[1]], &args).await?;
        self.home(shard).note(&reply).map_err(|error| StoreError::Refused(error.to_string()))
    }

    /// When the epoch of a shard began in which its grants are made, in microseconds
    /// since 1970.
    pub fn epoch_us(&self, shard: Shard) -> u64 {
        self.home(shard).epoch_us()
    }

    /// Takes note of a fence that was given in a shard.
    pub fn note_fence(&self, shard: Shard, fence: u64) {
        self.home(shard).note_fence(fence);
    }

    /// The largest fence of a shard that this server has seen; 0 before the first.
    pub fn last_fence(&self, shard: Shard) -> u64 {
        self.home(shard).last_fence()
    }

    /// Whether a shard's grants are where the database says that they are.
    pub fn belonging(&self, shard: Shard) -> Belonging {
        self.home(shard).belonging()
    }

    /// The epoch in which they were, when that was compared last.
    pub fn ours(&self, shard: Shard) -> Option<Epoch> {
        self.home(shard).ours()
    }

    /// Takes note of whether they are.
    pub fn set_belonging(&self, shard: Shard, belonging: Belonging) {
        self.home(shard).set_belonging(belonging);
    }

    fn home(&self, shard: Shard) -> &Home {
        match self {
            Self::Redis(redis) => redis.home(shard),
            Self::Embedded(embedded) => embedded.home(),
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.home(),
        }
    }

    /// How much longer nothing is granted in the shard that has to wait longest, as
    /// far as is known; `None` when locks are granted in all.
    pub fn recovery_rest(&self) -> Option<Duration> {
        self.shards().iter().filter_map(|shard| self.home(*shard).rest()).max()
    }

    /// How much longer nothing is granted in one shard, as far as is known.
    pub fn recovery_rest_in(&self, shard: Shard) -> Option<Duration> {
        self.home(shard).rest()
    }

    /// Whether scripts can be run in a shard, as far as is known.
    pub fn is_there(&self, shard: Shard) -> bool {
        match self {
            Self::Redis(redis) => redis.is_there(shard),
            Self::Embedded(_) => true,
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.is_there(),
        }
    }

    /// Whether what is kept of accounts can be asked for, as far as is known.
    pub fn has_accounts(&self) -> bool {
        match self {
            Self::Redis(redis) => redis.has_accounts(),
            Self::Embedded(_) => true,
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.is_there(),
        }
    }

    /// Whether scripts can be run, in some shards at least, as far as is known.
    pub fn is_reachable(&self) -> bool {
        match self {
            Self::Redis(redis) => redis.is_reachable(),
            Self::Embedded(_) => true,
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.is_there(),
        }
    }

    /// Measures how the way there stands: one node that is away is worth knowing of.
    pub fn measure(&self) {
        gauge!("lockable_recovering").set(f64::from(u8::from(self.recovery_rest().is_some())));
        let is_foreign = |shard: &Shard| self.belonging(*shard) == Belonging::Foreign;
        gauge!("lockable_store_foreign").set(self.shards().iter().filter(|shard| is_foreign(shard)).count() as f64);
        let is_up = match self {
            Self::Redis(redis) => redis.is_reachable_as_a_whole(),
            Self::Embedded(_) => true,
            #[cfg(feature = "simulation")]
            Self::Simulated(simulated) => simulated.is_there(),
        };
        gauge!("lockable_store_up").set(f64::from(u8::from(is_up)));
        match self {
            Self::Redis(redis) => redis.measure(),
            Self::Embedded(embedded) => gauge!("lockable_embedded_bytes").set(embedded.bytes() as f64),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => {}
        }
    }

    /// Has a task run where the server runs, that is, where it is: only a simulator has
    /// several servers in one process.
    #[cfg(not(feature = "simulation"))]
    #[expect(clippy::unused_self, reason = "the simulator's has a use for it")]
    pub(crate) fn on_process<F: Future>(&self, task: F) -> F {
        task
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn on_process<F: Future>(&self, task: F) -> OnProcess<F> {
        let process = match self {
            Self::Simulated(simulated) => Some(simulated.process().clone()),
            Self::Redis(_) | Self::Embedded(_) => None,
        };
        OnProcess::new(process, task)
    }

    /// How long a script may take before it counts as unanswered.
    pub fn timeout(&self) -> Duration {
        match self {
            Self::Redis(redis) => redis.timeout(),
            Self::Embedded(_) => Duration::from_secs(1),
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Simulated::TIMEOUT,
        }
    }
}

/// What a trace shows of a script: which it was, and nothing of whom it is about.
fn span(script: &'static Script) -> Span {
    debug_span!(target: "lockable::spans", "redis", otel.kind = "client", db.system.name = "redis", db.operation.name = script.name)
}

fn measure(script: &'static Script, begun: Instant, reply: &Result<Reply, StoreError>) {
    script.durations().record(begun.elapsed());
    let kind = match reply {
        Ok(_) => return,
        Err(StoreError::NotSent(_)) => "not_sent",
        Err(StoreError::NoAnswer(_)) => "no_answer",
        Err(StoreError::Refused(_)) => "refused",
    };
    counter!("lockable_store_errors_total", "kind" => kind).increment(1);
}
