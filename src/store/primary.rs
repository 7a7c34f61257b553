//! Which process has the grants, and whether it may have forgotten some. A
//! process that is not known to have been there all the time, without any loss,
//! grants nothing until a recovery is over: see `lua/register_primary.lua`.

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
    recovery_log::{Gathered, News},
};
use crate::{
    lock::Epoch,
    mends::{self, Mend},
};

pub(super) static ARRIVE: Script = Script::new(
    "register_primary",
    concat!(include_str!("../../lua/prelude.lua"), include_str!("../../lua/register_primary.lua")),
);

/// How the grants of a shard stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub epoch: Epoch,
    pub state: State,
    /// Whether this server was the first to notice what made the epoch begin.
    pub is_news: bool,
}

/// Whether grants are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They are.
    Open,
    /// They will be, from then on.
    Waiting { until: Instant },
    /// Not before what is known of long leases has been put back.
    Closed,
}

/// What a server asks for when it arrives.
#[derive(Clone, Copy, Debug)]
pub enum Arrival<'a> {
    /// To be told how the grants stand.
    Look,
    /// A recovery that begins now, unless another than this one has begun since.
    Anew(&'a Epoch),
    /// The same, since the clock has leapt. A recovery that began when the clock could have
    /// shown one of these times, in microseconds since 1970, may have begun before the leap,
    /// and is no later one: the leap may have ended it.
    Leapt(&'a Epoch, &'a RangeInclusive<u64>),
    /// A recovery with an epoch above this one, which begins now.
    Above(u64),
    /// The same, for a recovery that has begun and goes on.
    GoOnAbove(u64),
}

/// What a server knows of it, and who wants to hear of a change.
pub(super) struct Home {
    /// The hash tag of the shard.
    tag: &'static str,
    standing: watch::Sender<Option<Standing>>,
    /// What is told of it and of other shards, if there are any.
    gathered: Option<Arc<Gathered>>,
    /// Beside the rest, since every acquire needs it.
    epoch_us: AtomicU64,
    /// The largest fence that this server has seen.
    last_fence: AtomicU64,
    /// The largest one that it has seen in the store of today.
    store_fence: AtomicU64,
    /// The name of a store that has always the same.
    named: Option<&'static str>,
    /// Whether the store is the one that the database names, as a [`Belonging`].
    belonging: AtomicU8,
    /// The epoch in which it was when it was compared last.
    ours: Mutex<Option<Epoch>>,
}

/// Whether the grants of a shard are where the database says that they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belonging {
    /// It was not compared yet.
    Unknown,
    Ours,
    /// They are in another store.
    Foreign,
}

impl Home {
    /// With the name of the store if that is always the same.
    pub(super) fn new(tag: &'static str, gathered: Option<Arc<Gathered>>, named: Option<&'static str>) -> Self {
        Self {
            tag,
            standing: watch::Sender::new(None),
            gathered,
            epoch_us: AtomicU64::new(0),
            last_fence: AtomicU64::new(0),
            store_fence: AtomicU64::new(0),
            named,
            belonging: AtomicU8::new(Belonging::Unknown as u8),
            ours: Mutex::default(),
        }
    }

    pub(super) fn belonging(&self) -> Belonging {
        match self.belonging.load(Ordering::Relaxed) {
            ours if ours == Belonging::Ours as u8 => Belonging::Ours,
            foreign if foreign == Belonging::Foreign as u8 => Belonging::Foreign,
            _ => Belonging::Unknown,
        }
    }

    pub(super) fn set_belonging(&self, belonging: Belonging) {
        if belonging == Belonging::Ours
            && let Some(standing) = &*self.standing.borrow()
        {
            *self.ours.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing.epoch.clone());
        }
        self.belonging.store(belonging as u8, Ordering::Relaxed);
    }

    /// The epoch in which the store was the one that the database names, when that was
    /// compared last.
    pub(super) fn ours(&self) -> Option<Epoch> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The arguments of `register_primary.lua`.
    pub(super) fn arrive_args<'a>(
        &'a self,
        process: &'a str,
        former: &'a str,
        arrival: Arrival<'_>,
    ) -> [Cow<'a, str>; 10] {
        let store = self.standing.borrow().as_ref().map(|standing| standing.epoch.store.clone());
        let fence = self.store_fence.load(Ordering::Relaxed);
        // Another one each time: data that was emptied is other data.
        let new_store = self.named.map_or_else(|| new_name().into(), Cow::from);
        let (floor_us, begun, goes_on) = match arrival {
            Arrival::Look => (0, String::new(), ""),
            Arrival::Anew(epoch) | Arrival::Leapt(epoch, _) if !mends::is_on(Mend::BegunAnew) => {
                (epoch.epoch_us, String::new(), "")
            }
            Arrival::Anew(epoch) | Arrival::Leapt(epoch, _) => (epoch.epoch_us, epoch.begun_us.to_string(), ""),
            Arrival::Above(floor_us) => (floor_us, String::new(), ""),
            Arrival::GoOnAbove(floor_us) => (floor_us, String::new(), "1"),
        };
        let [leapt_from, leapt_to] = match arrival {
            Arrival::Leapt(_, before_us) if mends::is_on(Mend::BegunBeforeLeap) => {
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
            goes_on.into(),
            begun.into(),
            leapt_from,
            leapt_to,
        ]
    }

    pub(super) fn standing(&self) -> watch::Receiver<Option<Standing>> {
        self.standing.subscribe()
    }

    /// The epoch that this server knows.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.standing.borrow().as_ref().map(|standing| standing.epoch.clone())
    }

    pub(super) fn epoch_us(&self) -> u64 {
        self.epoch_us.load(Ordering::Relaxed)
    }

    pub(super) fn last_fence(&self) -> u64 {
        self.last_fence.load(Ordering::Relaxed)
    }

    pub(super) fn note_fence(&self, fence: u64) {
        self.last_fence.fetch_max(fence, Ordering::Relaxed);
        self.store_fence.fetch_max(fence, Ordering::Relaxed);
    }

    /// Takes note of what `register_primary.lua` has said.
    pub(super) fn note(&self, reply: &Reply) -> Result<Standing, BadReply> {
        let standing = read(self.tag, reply)?;
        self.epoch_us.store(standing.epoch.epoch_us, Ordering::Relaxed);
        // First of all, lest a fence of another store is looked for in this one.
        if self.standing.borrow().as_ref().is_some_and(|before| before.epoch.store != standing.epoch.store) {
            self.store_fence.store(0, Ordering::Relaxed);
        }
        let before = self.standing.send_replace(Some(standing.clone()));
        // Until a recovery is over nothing is granted, and it is compared meanwhile.
        if standing.state == State::Open && self.ours().is_none_or(|ours| ours.store != standing.epoch.store) {
            self.set_belonging(Belonging::Unknown);
        }
        if let Some(news) = standing.news(before.as_ref(), reply) {
            match &self.gathered {
                Some(gathered) => gathered.add(news),
                None => news.say(None),
            }
        }
        Ok(standing)
    }

    /// How long nothing is granted yet, as far as is known; `None` when locks are.
    pub(super) fn rest(&self) -> Option<Duration> {
        self.standing.borrow().as_ref().and_then(Standing::rest)
    }
}

impl Standing {
    /// How long a recovery will last, as far as is known: `None` when there is
    /// none.
    pub fn rest(&self) -> Option<Duration> {
        /// What is to be asked for takes a moment, nobody knows how long.
        const A_MOMENT: Duration = Duration::from_secs(1);
        match self.state {
            State::Open => None,
            State::Waiting { until } => Some(until.saturating_duration_since(Instant::now())),
            State::Closed => Some(A_MOMENT),
        }
    }

    /// What is to be told, once, of what has changed.
    fn news(&self, before: Option<&Self>, reply: &Reply) -> Option<News> {
        let is_same = before.is_some_and(|before| {
            before.epoch.epoch_us == self.epoch.epoch_us
                && std::mem::discriminant(&before.state) == std::mem::discriminant(&self.state)
        });
        if is_same {
            return None;
        }
        let (epoch, shard) = (self.epoch.epoch_us, self.epoch.tag);
        tracing::debug!(epoch, shard, state = ?self.state, "the grants of a shard stand otherwise");
        match self.state {
            // At a start it is not known yet whether there were any.
            State::Closed if self.is_news && before.is_some() => {
                counter!("lockable_recoveries_total").increment(1);
                Some(News::Lost { reason: reply.text(2).unwrap_or_default().to_owned() })
            }
            State::Waiting { until } => Some(News::Restored { until }),
            State::Open if before.is_some_and(|before| matches!(before.state, State::Waiting { .. })) => {
                Some(News::Open)
            }
            State::Closed | State::Open => None,
        }
    }
}

#[cfg(not(feature = "simulation"))]
fn new_name() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Simulations must run the same each time.
#[cfg(feature = "simulation")]
fn new_name() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn read(tag: &'static str, reply: &Reply) -> Result<Standing, BadReply> {
    let mut fields = reply.text(1)?.rsplitn(5, ' ');
    let mut field = || fields.next().ok_or_else(|| reply.bad());
    let (epoch, begun, founded, store, process) = (field()?, field()?, field()?, field()?, field()?);
    let time_us = |text: &str| text.parse().map_err(|_| reply.bad());
    let (epoch_us, begun_us, founded_us) = (time_us(epoch)?, time_us(begun)?, time_us(founded)?);
    let (state, is_news) = match reply.status() {
        "open" => (State::Open, false),
        "waiting" => (State::Waiting { until: Instant::now() + Duration::from_millis(reply.word(2)?) }, false),
        "closed" => (State::Closed, !reply.text(2)?.is_empty()),
        _ => return Err(reply.bad()),
    };
    let epoch = Epoch { tag, process: process.to_owned(), store: store.to_owned(), founded_us, begun_us, epoch_us };
    Ok(Standing { epoch, state, is_news })
}
