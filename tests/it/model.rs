//! Random sequences of operations, with time moving, on a small model, on the
//! embedded keyspace and on a real Redis: all three agree, word for word.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use lockable::{
    config::RedisSettings,
    keyspace::{Clock, Embedded, Keyspace, Redis},
    lock::{
        AccountId, Acquired, Fence, Grant, Heartbeaten, Holder, Label, Lease, LockName, NamespaceId, NotHeld, Note,
        Owner, Payment, Rate, RateDue, RateStanding, Refusal, Released,
    },
    locks::{AcquireRequest, Answer, Claimant, HeartbeatRequest, LockId, Locks, ReleaseRequest},
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use uuid::Uuid;

use crate::support::redis::{FakeClock, RedisServer};

/// One request is refilled every tenth of a second.
const RATE: Rate = Rate { per_second: 10, burst: 4 };
const HELD_MAX: u64 = 2;
/// 2026-01-01, in microseconds since 1970.
const START_US: u64 = 1_767_225_600_000_000;

#[derive(Clone, Debug)]
enum Step {
    Acquire { lock: usize, who: usize, lease_ms: u64, note: &'static str, due: bool },
    Heartbeat { lock: usize, who: usize, lease_ms: u64, fence: Pick, due: bool },
    Release { lock: usize, who: usize, fence: Pick, due: bool },
    Pass { us: u64 },
}

/// Which fence a client names.
#[derive(Clone, Copy, Debug)]
enum Pick {
    None,
    Last,
    BeforeLast,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lock = 0..4_usize;
    let who = 0..5_usize;
    let lease_ms = prop_oneof![Just(1000), Just(1500), Just(60_000), Just(3_600_000)];
    let pick = prop_oneof![3 => Just(Pick::None), 2 => Just(Pick::Last), 1 => Just(Pick::BeforeLast)];
    let note = prop_oneof![Just(""), Just("build 1234, by ana"), Just("é ü \\n %")];
    // Lapses are hit to the millisecond: one before, on, and one after.
    let pass = prop_oneof![
        0..2_000_000_u64,
        Just(999_000),
        Just(1_000_000),
        Just(1_001_000),
        Just(60_000_000),
        Just(60_001_000),
        Just(3_600_001_000),
    ];
    let due = prop::bool::weighted(0.3);
    let step = prop_oneof![
        4 => (lock.clone(), who.clone(), lease_ms.clone(), note, due)
            .prop_map(|(lock, who, lease_ms, note, due)| Step::Acquire { lock, who, lease_ms, note, due }),
        2 => (lock.clone(), who.clone(), lease_ms, pick.clone(), due)
            .prop_map(|(lock, who, lease_ms, fence, due)| Step::Heartbeat { lock, who, lease_ms, fence, due }),
        2 => (lock, who, pick, due).prop_map(|(lock, who, fence, due)| Step::Release { lock, who, fence, due }),
        3 => pass.prop_map(|us| Step::Pass { us }),
    ];
    vec(step, 1..60)
}

/// What the three must agree on.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Acquired(Answer<Acquired>),
    Heartbeaten(Answer<Heartbeaten>),
    Released(Answer<Released>),
}

/// The rules of the contract, once more and as plainly as possible.
#[derive(Default)]
struct Model {
    now_us: u64,
    last_fence: u64,
    held: HashMap<LockId, (Claimant, Holder)>,
    full_at_us: u64,
}

impl Model {
    fn acquire(&mut self, request: &AcquireRequest) -> Answer<Acquired> {
        self.forget_lapsed();
        let standing = match self.charge(&request.payment) {
            Ok(standing) => standing,
            Err((standing, retry_after)) => {
                let outcome = Acquired::Refused(Refusal::RateLimited { retry_after });
                return Answer { outcome, standing: Some(standing) };
            }
        };
        let expires_at = self.after(request.lease);
        let now = self.now();
        let of_account = |held: &&(Claimant, Holder)| held.0.account == request.claimant.account;
        let held_by_account = self.held.values().filter(of_account).count() as u64;
        let outcome = match self.held.get_mut(&request.lock) {
            Some((claimant, holder)) if *claimant == request.claimant && claimant.owner.is_some() => {
                holder.expires_at = expires_at;
                Acquired::Granted(Grant { fence: holder.fence, lease: request.lease, expires_at })
            }
            Some((_, holder)) => {
                let rest = Duration::try_from(holder.expires_at.duration_since(now)).unwrap();
                Acquired::Refused(Refusal::Held { holder: holder.clone(), rest })
            }
            None if held_by_account >= HELD_MAX => Acquired::Refused(Refusal::OverQuota { held: held_by_account }),
            None => {
                self.last_fence = self.now_us.max(self.last_fence + 1);
                let fence: Fence = self.last_fence.to_string().parse().unwrap();
                let holder = Holder {
                    account: request.claimant.account,
                    owner: request.claimant.owner.clone(),
                    fence,
                    label: request.label.clone(),
                    note: request.note.clone(),
                    acquired_at: now,
                    expires_at,
                };
                self.held.insert(request.lock.clone(), (request.claimant.clone(), holder));
                Acquired::Granted(Grant { fence, lease: request.lease, expires_at })
            }
        };
        Answer { outcome, standing }
    }

    fn heartbeat(&mut self, request: &HeartbeatRequest) -> Answer<Heartbeaten> {
        self.forget_lapsed();
        let standing = match self.charge(&request.payment) {
            Ok(standing) => standing,
            Err((standing, retry_after)) => {
                return Answer { outcome: Heartbeaten::RateLimited { retry_after }, standing: Some(standing) };
            }
        };
        let expires_at = self.after(request.lease);
        let outcome = match self.find(&request.lock, &request.claimant, request.fence) {
            Ok(holder) => {
                holder.expires_at = expires_at;
                Heartbeaten::Renewed(Grant { fence: holder.fence, lease: request.lease, expires_at })
            }
            Err(reason) => Heartbeaten::Refused(reason),
        };
        Answer { outcome, standing }
    }

    fn release(&mut self, request: &ReleaseRequest) -> Answer<Released> {
        self.forget_lapsed();
        let standing = match self.charge(&request.payment) {
            Ok(standing) => standing,
            Err((standing, retry_after)) => {
                return Answer { outcome: Released::RateLimited { retry_after }, standing: Some(standing) };
            }
        };
        let outcome = match self.find(&request.lock, &request.claimant, request.fence) {
            Ok(_) => {
                self.held.remove(&request.lock);
                Released::Released
            }
            Err(reason) => Released::Refused(reason),
        };
        Answer { outcome, standing }
    }

    fn find(&mut self, lock: &LockId, claimant: &Claimant, fence: Option<Fence>) -> Result<&mut Holder, NotHeld> {
        let (holding, holder) = self.held.get_mut(lock).ok_or(NotHeld::Free)?;
        let is_meant = holding == claimant && fence.is_none_or(|fence| fence == holder.fence);
        if is_meant { Ok(holder) } else { Err(NotHeld::HeldByAnother) }
    }

    /// A leaking bucket: it drains one request each interval, and holds a burst.
    fn charge(&mut self, payment: &Payment) -> Result<Option<RateStanding>, (RateStanding, Duration)> {
        let Payment::Due(due) = payment else { return Ok(None) };
        let interval_us = 1_000_000 / u64::from(due.rate.per_second);
        let backlog_us = self.full_at_us.saturating_sub(self.now_us);
        let standing = |backlog_us: u64| RateStanding {
            rate: due.rate,
            remaining: due.rate.burst - backlog_us.div_ceil(interval_us) as u32,
            reset: Duration::from_micros(backlog_us),
        };
        let room_us = interval_us * u64::from(due.rate.burst) - backlog_us;
        if room_us < interval_us {
            return Err((standing(backlog_us), Duration::from_micros(interval_us - room_us)));
        }
        self.full_at_us = self.now_us + backlog_us + interval_us;
        Ok(Some(standing(backlog_us + interval_us)))
    }

    fn forget_lapsed(&mut self) {
        let now = self.now();
        self.held.retain(|_, (_, holder)| holder.expires_at >= now);
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond((self.now_us / 1000) as i64).unwrap()
    }

    fn after(&self, lease: Lease) -> Timestamp {
        self.now() + lease.as_duration()
    }
}

#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Clock for Hand {
    fn now_us(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn claimant(who: usize) -> Claimant {
    let (account, owner) = [(1, None), (1, Some("ana")), (1, Some("bob")), (2, None), (2, Some("ana"))][who];
    Claimant { account: AccountId(Uuid::from_u128(account)), owner: owner.map(|text| Owner::parse(text).unwrap()) }
}

fn lock(index: usize) -> LockId {
    let namespaces = [NamespaceId::Public, NamespaceId::Private(Uuid::from_u128(7))];
    let names = ["deploy", "team/deploy"];
    LockId { namespace: namespaces[index % 2], name: LockName::parse(names[index / 2]).unwrap() }
}

/// The bucket stands in the hash slot of the locks, as the keys of each
/// keyspace are called.
fn payment(due: bool, keyspace: &Keyspace) -> Payment {
    match due {
        true => Payment::Due(RateDue { bucket: keyspace.key("0", "rate", "token"), rate: RATE }),
        false => Payment::Paid,
    }
}

/// A keyspace, its locks, and the model, all at one time.
struct Trial {
    keyspaces: Vec<(&'static str, Keyspace, Locks)>,
    model: Model,
    fences: HashMap<usize, Vec<Fence>>,
}

impl Trial {
    async fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let of_model = self.ask(step, None).await;
        if let Seen::Acquired(Answer { outcome: Acquired::Granted(grant), .. }) = &of_model
            && let Step::Acquire { lock, .. } = step
        {
            let fences = self.fences.entry(*lock).or_default();
            if fences.last() != Some(&grant.fence) {
                prop_assert!(fences.last().is_none_or(|last| *last < grant.fence), "a fence fell");
                fences.push(grant.fence);
            }
        }
        for at in 0..self.keyspaces.len() {
            let seen = self.ask_keyspace(step, at).await;
            prop_assert_eq!(&seen, &of_model, "{} differs at {:?}", self.keyspaces[at].0, step);
        }
        Ok(())
    }

    async fn ask_keyspace(&mut self, step: &Step, at: usize) -> Seen {
        let (_, keyspace, locks) = self.keyspaces[at].clone();
        self.ask(step, Some((&keyspace, &locks))).await
    }

    async fn ask(&mut self, step: &Step, on: Option<(&Keyspace, &Locks)>) -> Seen {
        let pay = |due: bool| match on {
            Some((keyspace, _)) => payment(due, keyspace),
            None if due => Payment::Due(RateDue { bucket: String::new(), rate: RATE }),
            None => Payment::Paid,
        };
        let picked = |index: usize, pick: Pick| {
            let mut fences = self.fences.get(&index).into_iter().flatten().rev().copied();
            match pick {
                Pick::None => None,
                Pick::Last => fences.next(),
                Pick::BeforeLast => fences.nth(1),
            }
        };
        match *step {
            Step::Acquire { lock: index, who, lease_ms, note, due } => {
                let request = AcquireRequest {
                    lock: lock(index),
                    claimant: claimant(who),
                    lease: Lease::from_ms(lease_ms),
                    label: Label::parse("ci").unwrap(),
                    note: Note::parse(note).unwrap(),
                    held_max: HELD_MAX,
                    payment: pay(due),
                };
                Seen::Acquired(match on {
                    Some((_, locks)) => locks.acquire(&request).await.unwrap(),
                    None => self.model.acquire(&request),
                })
            }
            Step::Heartbeat { lock: index, who, lease_ms, fence, due } => {
                let request = HeartbeatRequest {
                    lock: lock(index),
                    claimant: claimant(who),
                    lease: Lease::from_ms(lease_ms),
                    fence: picked(index, fence),
                    payment: pay(due),
                };
                Seen::Heartbeaten(match on {
                    Some((_, locks)) => locks.heartbeat(&request).await.unwrap(),
                    None => self.model.heartbeat(&request),
                })
            }
            Step::Release { lock: index, who, fence, due } => {
                let request = ReleaseRequest {
                    lock: lock(index),
                    claimant: claimant(who),
                    fence: picked(index, fence),
                    payment: pay(due),
                };
                Seen::Released(match on {
                    Some((_, locks)) => locks.release(&request).await.unwrap(),
                    None => self.model.release(&request),
                })
            }
            Step::Pass { .. } => unreachable!("time is not asked for anything"),
        }
    }
}

#[test]
fn a_model_the_embedded_keyspace_and_redis_agree() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (server, clock) = RedisServer::builder().start_with_clock(START_US);
    let settings = RedisSettings {
        url: Some(server.url().parse().unwrap()),
        // Deadlines count from when the server's clock was last heard, and here
        // it leaps by hours.
        timeout: Duration::from_secs(365 * 24 * 3600),
        prefix: "model".into(),
        wait_replicas: 0,
        pool_size: 1,
    };
    let redis = Keyspace::Redis(runtime.block_on(Redis::start(&settings)).unwrap());

    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| runtime.block_on(run(&steps, &server, &clock, &redis)));
    outcome.unwrap();
}

async fn run(steps: &[Step], server: &RedisServer, clock: &FakeClock, redis: &Keyspace) -> Result<(), TestCaseError> {
    server.cli(&["FLUSHALL"]);
    let hand = Hand(Arc::new(AtomicU64::new(clock.now_us())));
    let embedded = Keyspace::Embedded(Arc::new(Embedded::new(hand.clone()).unwrap()));
    let keyspaces = [("the embedded keyspace", embedded), ("Redis", redis.clone())];
    let mut trial = Trial {
        keyspaces: keyspaces.map(|(name, keyspace)| (name, keyspace.clone(), Locks::new(keyspace))).to_vec(),
        model: Model { now_us: clock.now_us(), ..Model::default() },
        fences: HashMap::new(),
    };
    for step in steps {
        match step {
            Step::Pass { us } => {
                clock.advance(*us);
                hand.0.fetch_add(*us, Ordering::SeqCst);
                trial.model.now_us += us;
            }
            step => trial.take(step).await?,
        }
    }
    Ok(())
}
