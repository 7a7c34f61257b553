//! The identity of the process that holds a shard's grants, and the shard's recovery state.
//! A process that may have lost data grants nothing until a recovery ends: see
//! `lua/register_primary.lua`.

use std::{
    borrow::Cow,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::counter;
use tokio::{sync::watch, time::Instant};
#[cfg(not(feature = "simulation"))]
use uuid::Uuid;

use super::{
    BadReply, Reply, Script,
    recovery_log::{EventAggregator, RecoveryEvent},
};
use crate::{
    lock::Epoch,
    safeguards::{self, Safeguard},
};

pub(super) static REGISTER_PRIMARY: Script = Script::new(
    "register_primary",
    concat!(include_str!("../../lua/prelude.lua"), include_str!("../../lua/register_primary.lua")),
);

/// The recovery state of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryState {
    pub epoch: Epoch,
    pub phase: RecoveryPhase,
    /// Whether this server was the first to detect the cause of the epoch.
    pub is_first_notice: bool,
}

/// Whether a shard grants locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryPhase {
    /// The shard grants locks.
    Open,
    /// The shard grants locks from `until` on, when lost short leases have expired.
    Waiting { until: Instant },
    /// The shard grants locks after a server has restored the long leases from the journal.
    Closed,
}

/// What a server requests from `register_primary.lua`.
#[derive(Clone, Copy, Debug)]
pub enum Registration<'a> {
    /// Return the recovery state.
    Check,
    /// Begin a recovery, unless another one has begun since this epoch.
    Restart(&'a Epoch),
    /// As `Restart`, after a clock jump. The range holds the values, in microseconds since
    /// 1970, that the clock may have shown before the jump. A recovery that began within it
    /// may predate the jump, which may have ended it early, so it does not count as later.
    ClockJumped(&'a Epoch, &'a RangeInclusive<u64>),
    /// Begin a recovery with an epoch above this one.
    Above(u64),
    /// Continue the current recovery with an epoch above this one.
    ContinueAbove(u64),
}

/// What a server knows about the primary of a shard.
pub(super) struct Primary {
    /// The hash tag of the shard.
    tag: &'static str,
    current: watch::Sender<Option<RecoveryState>>,
    /// Collects the events of all shards of a cluster.
    events: Option<Arc<EventAggregator>>,
    /// Outside `current`, since every acquire reads it.
    epoch_us: AtomicU64,
    /// The largest fencing token of the shard that this server has seen, in any store.
    last_fence: AtomicU64,
    /// The largest fencing token that this server has seen in the current store.
    store_fence: AtomicU64,
    /// The store's name, if it never changes.
    fixed_name: Option<&'static str>,
    /// The last comparison with the database, as a [`StoreMatch`].
    store_match: AtomicU8,
    /// The epoch at the last comparison with the result `Named`.
    last_named_epoch: Mutex<Option<Epoch>>,
}

/// Whether a shard's data is in the store that the database names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMatch {
    /// Not compared yet.
    Unknown,
    /// The database names this store.
    Named,
    /// The database names another store.
    Foreign,
}

impl Primary {
    /// `fixed_name` is the store's name, if it never changes.
    pub(super) fn new(
        tag: &'static str,
        events: Option<Arc<EventAggregator>>,
        fixed_name: Option<&'static str>,
    ) -> Self {
        Self {
            tag,
            current: watch::Sender::new(None),
            events,
            epoch_us: AtomicU64::new(0),
            last_fence: AtomicU64::new(0),
            store_fence: AtomicU64::new(0),
            fixed_name,
            store_match: AtomicU8::new(StoreMatch::Unknown as u8),
            last_named_epoch: Mutex::default(),
        }
    }

    pub(super) fn store_match(&self) -> StoreMatch {
        match self.store_match.load(Ordering::Relaxed) {
            named if named == StoreMatch::Named as u8 => StoreMatch::Named,
            foreign if foreign == StoreMatch::Foreign as u8 => StoreMatch::Foreign,
            _ => StoreMatch::Unknown,
        }
    }

    pub(super) fn set_store_match(&self, store_match: StoreMatch) {
        if store_match == StoreMatch::Named
            && let Some(state) = &*self.current.borrow()
        {
            *self.last_named_epoch.lock().unwrap_or_else(PoisonError::into_inner) = Some(state.epoch.clone());
        }
        self.store_match.store(store_match as u8, Ordering::Relaxed);
    }

    /// The epoch at the last comparison with the result [`StoreMatch::Named`].
    pub(super) fn last_named_epoch(&self) -> Option<Epoch> {
        self.last_named_epoch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The arguments of `register_primary.lua`.
    pub(super) fn registration_args<'a>(
        &'a self,
        process: &'a str,
        former: &'a str,
        registration: Registration<'_>,
    ) -> [Cow<'a, str>; 10] {
        let store = self.current.borrow().as_ref().map(|state| state.epoch.store.clone());
        let fence = self.store_fence.load(Ordering::Relaxed);
        // A new name each time: emptied data becomes another store.
        let new_store = self.fixed_name.map_or_else(|| new_store_name().into(), Cow::from);
        let (floor_us, begun, continues) = match registration {
            Registration::Check => (0, String::new(), ""),
            Registration::Restart(epoch) | Registration::ClockJumped(epoch, _)
                if !safeguards::is_on(Safeguard::RecoveryRestarted) =>
            {
                (epoch.epoch_us, String::new(), "")
            }
            Registration::Restart(epoch) | Registration::ClockJumped(epoch, _) => {
                (epoch.epoch_us, epoch.begun_us.to_string(), "")
            }
            Registration::Above(floor_us) => (floor_us, String::new(), ""),
            Registration::ContinueAbove(floor_us) => (floor_us, String::new(), "1"),
        };
        let [jumped_from, jumped_to] = match registration {
            Registration::ClockJumped(_, before_us) if safeguards::is_on(Safeguard::BegunBeforeJump) => {
                [before_us.start().to_string().into(), before_us.end().to_string().into()]
            }
            _ => [Cow::from(""), Cow::from("")],
        };
        let (floor_us, fence, store) = (floor_us.to_string(), fence.to_string(), store.unwrap_or_default());
        [
            process.into(),
            former.into(),
            floor_us.into(),
            new_store,
            store.into(),
            fence.into(),
            continues.into(),
            begun.into(),
            jumped_from,
            jumped_to,
        ]
    }

    pub(super) fn recovery_state(&self) -> watch::Receiver<Option<RecoveryState>> {
        self.current.subscribe()
    }

    /// The epoch that this server knows.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.current.borrow().as_ref().map(|state| state.epoch.clone())
    }

    pub(super) fn epoch_us(&self) -> u64 {
        self.epoch_us.load(Ordering::Relaxed)
    }

    pub(super) fn last_fence(&self) -> u64 {
        self.last_fence.load(Ordering::Relaxed)
    }

    pub(super) fn record_fence(&self, fence: u64) {
        self.last_fence.fetch_max(fence, Ordering::Relaxed);
        self.store_fence.fetch_max(fence, Ordering::Relaxed);
    }

    /// Records the reply of `register_primary.lua`.
    pub(super) fn record_reply(&self, reply: &Reply) -> Result<RecoveryState, BadReply> {
        let state = read_state(self.tag, reply)?;
        self.epoch_us.store(state.epoch.epoch_us, Ordering::Relaxed);
        // Before the new state is visible: a fencing token of the old store must not be
        // compared with the new one.
        if self.current.borrow().as_ref().is_some_and(|before| before.epoch.store != state.epoch.store) {
            self.store_fence.store(0, Ordering::Relaxed);
        }
        let before = self.current.send_replace(Some(state.clone()));
        // Not during a recovery: it grants nothing, and the comparison follows later.
        if state.phase == RecoveryPhase::Open
            && self.last_named_epoch().is_none_or(|named| named.store != state.epoch.store)
        {
            self.set_store_match(StoreMatch::Unknown);
        }
        if let Some(event) = state.event_since(before.as_ref(), reply) {
            match &self.events {
                Some(events) => events.add(event),
                None => event.log(None),
            }
        }
        Ok(state)
    }

    /// The remaining recovery time, as far as this server knows; `None` when the shard grants locks.
    pub(super) fn remaining(&self) -> Option<Duration> {
        self.current.borrow().as_ref().and_then(RecoveryState::remaining)
    }
}

impl RecoveryState {
    /// The remaining recovery time, as far as this server knows; `None` outside a recovery.
    pub fn remaining(&self) -> Option<Duration> {
        /// Restoring long leases takes an unknown time; callers retry after this one.
        const CLOSED_ESTIMATE: Duration = Duration::from_secs(1);
        match self.phase {
            RecoveryPhase::Open => None,
            RecoveryPhase::Waiting { until } => Some(until.saturating_duration_since(Instant::now())),
            RecoveryPhase::Closed => Some(CLOSED_ESTIMATE),
        }
    }

    /// The event to log if the state differs from `before`.
    fn event_since(&self, before: Option<&Self>, reply: &Reply) -> Option<RecoveryEvent> {
        let is_same = before.is_some_and(|before| {
            before.epoch.epoch_us == self.epoch.epoch_us
                && std::mem::discriminant(&before.phase) == std::mem::discriminant(&self.phase)
        });
        if is_same {
            return None;
        }
        let (epoch, shard) = (self.epoch.epoch_us, self.epoch.tag);
        tracing::debug!(epoch, shard, state = ?self.phase, "the recovery state of a shard changed");
        match self.phase {
            // At a server's start it is unknown whether the store had grants.
            RecoveryPhase::Closed if self.is_first_notice && before.is_some() => {
                counter!("lockable_recoveries_total").increment(1);
                Some(RecoveryEvent::GrantsLost { reason: reply.text(2).unwrap_or_default().to_owned() })
            }
            RecoveryPhase::Waiting { until } => Some(RecoveryEvent::LeasesRestored { until }),
            RecoveryPhase::Open
                if before.is_some_and(|before| matches!(before.phase, RecoveryPhase::Waiting { .. })) =>
            {
                Some(RecoveryEvent::Opened)
            }
            RecoveryPhase::Closed | RecoveryPhase::Open => None,
        }
    }
}

#[cfg(not(feature = "simulation"))]
fn new_store_name() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Simulations must be reproducible.
#[cfg(feature = "simulation")]
fn new_store_name() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn read_state(tag: &'static str, reply: &Reply) -> Result<RecoveryState, BadReply> {
    let mut fields = reply.text(1)?.rsplitn(5, ' ');
    let mut field = || fields.next().ok_or_else(|| reply.bad());
    let (epoch, begun, founded, store, process) = (field()?, field()?, field()?, field()?, field()?);
    let time_us = |text: &str| text.parse().map_err(|_| reply.bad());
    let (epoch_us, begun_us, founded_us) = (time_us(epoch)?, time_us(begun)?, time_us(founded)?);
    let (phase, is_first_notice) = match reply.status() {
        "open" => (RecoveryPhase::Open, false),
        "waiting" => (RecoveryPhase::Waiting { until: Instant::now() + Duration::from_millis(reply.word(2)?) }, false),
        "closed" => (RecoveryPhase::Closed, !reply.text(2)?.is_empty()),
        _ => return Err(reply.bad()),
    };
    let epoch = Epoch { tag, process: process.to_owned(), store: store.to_owned(), founded_us, begun_us, epoch_us };
    Ok(RecoveryState { epoch, phase, is_first_notice })
}
