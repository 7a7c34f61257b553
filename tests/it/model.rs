//! Random sequences of operations, with time moving, on a small model, on the
//! embedded store and on a real Redis: all three agree, word for word.

mod rules;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lockable::{
    config::RedisSettings,
    lock::{
        AccountId, AcquireOutcome, Attempt, FencingToken, HeartbeatOutcome, Info, Label, Lease, LockName, NamespaceId,
        Note, Owner, Payment, Rate, RateDue, ReleaseOutcome, TokenEnd,
    },
    locks::{
        AcquireRequest, Answer, Claimant, HeartbeatRequest, LockId, Locks, Look, ReleaseRequest, RenewedLease, Turn,
        Withdrawn,
    },
    store::{Clock, Embedded, Redis, Store},
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use uuid::Uuid;

use self::rules::Model;
use crate::support::{
    journal::new_locks,
    redis::{FakeClock, RedisServer},
};

/// One request is refilled every tenth of a second.
const RATE: Rate = Rate { per_second: 10, burst: 4 };
const HELD_MAX: u64 = 2;
const WAITING_MAX: u64 = 3;
/// 2026-01-01, in microseconds since 1970.
const START_US: u64 = 1_767_225_600_000_000;

#[derive(Clone, Debug)]
enum Step {
    Ask {
        lock: usize,
        who: usize,
        lease_ms: u64,
        note: &'static str,
        due: bool,
        wait_ms: u64,
    },
    /// These are about one of the last attempts that may have waited.
    Collect {
        ago: usize,
        is_over: bool,
    },
    Withdraw {
        ago: usize,
    },
    Look {
        lock: usize,
    },
    Heartbeat {
        lock: usize,
        who: usize,
        lease_ms: u64,
        fence: Pick,
        due: bool,
    },
    Release {
        lock: usize,
        who: usize,
        fence: Pick,
        due: bool,
    },
    Pass {
        us: u64,
    },
}

/// Which fence a client names.
#[derive(Clone, Copy, Debug)]
enum Pick {
    None,
    Last,
    BeforeLast,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Mostly one lock, so that lines form.
    let lock = prop_oneof![3 => Just(0), 2 => 0..4_usize];
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
        // What was handed over and not collected, and the place of an owner.
        Just(5_000_000),
        Just(5_001_000),
        Just(10_000_000),
        Just(10_001_000),
        Just(60_000_000),
        Just(60_001_000),
        Just(3_600_001_000),
    ];
    let due = prop::bool::weighted(0.3);
    let wait_ms = prop_oneof![2 => Just(0), 3 => Just(30_000), 1 => Just(2_000)];
    let step = prop_oneof![
        6 => (lock.clone(), who.clone(), lease_ms.clone(), note, due, wait_ms)
            .prop_map(|(lock, who, lease_ms, note, due, wait_ms)| Step::Ask { lock, who, lease_ms, note, due, wait_ms }),
        4 => (0..6_usize, prop::bool::weighted(0.3)).prop_map(|(ago, is_over)| Step::Collect { ago, is_over }),
        1 => (0..6_usize).prop_map(|ago| Step::Withdraw { ago }),
        1 => lock.clone().prop_map(|lock| Step::Look { lock }),
        2 => (lock.clone(), who.clone(), lease_ms, pick.clone(), due)
            .prop_map(|(lock, who, lease_ms, fence, due)| Step::Heartbeat { lock, who, lease_ms, fence, due }),
        2 => (lock, who, pick, due).prop_map(|(lock, who, fence, due)| Step::Release { lock, who, fence, due }),
        3 => pass.prop_map(|us| Step::Pass { us }),
    ];
    vec(step, 1..80)
}

/// What the three must agree on.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Asked(Answer<Turn>),
    Collected(Turn),
    Looked(Look),
    Withdrawn(bool),
    HeartbeatOutcome(Answer<HeartbeatOutcome>),
    Released(Answer<ReleaseOutcome>),
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
/// store are called.
fn payment(due: bool, store: &Store) -> Payment {
    match due {
        true => Payment::Due(RateDue { bucket: store.key("0", "rate", "token").into(), rate: RATE }),
        false => Payment::Paid,
    }
}

/// A request for this lease asks for none.
const DEFAULT_LEASE: Lease = Lease::from_secs(60);
/// The longest lease of a heartbeat that asks for none.
const LEASE_MAX: Lease = Lease::from_secs(1800);

/// A store, its locks, and the model, all at one time.
struct Trial {
    stores: Vec<(&'static str, Store, Locks)>,
    model: Model,
    fences: HashMap<usize, Vec<FencingToken>>,
    attempts: Vec<(usize, AcquireRequest, Attempt)>,
}

impl Trial {
    async fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        if let Step::Ask { lock: index, who, lease_ms, note, .. } = *step {
            let request = AcquireRequest {
                lock: lock(index),
                claimant: claimant(who),
                lease: Lease::from_ms(lease_ms),
                is_lease_asked: Lease::from_ms(lease_ms) != DEFAULT_LEASE,
                label: Label::parse("ci").unwrap(),
                token: TokenEnd::of(Uuid::nil()),
                note: Note::parse(note).unwrap(),
                info: Info::parse(if who == 1 { "{}" } else { "" }).unwrap(),
                held_max: HELD_MAX,
                waiting_max: WAITING_MAX,
                payment: Payment::Paid,
            };
            self.attempts.push((index, request, Attempt::new()));
        }
        let of_model = self.ask(step, None).await;
        let granted = match (&of_model, step) {
            (
                Seen::Asked(Answer { outcome: Turn::Over(AcquireOutcome::Granted(grant)), .. }),
                Step::Ask { lock, .. },
            ) => Some((*lock, grant.fence)),
            (Seen::Collected(Turn::Over(AcquireOutcome::Granted(grant))), Step::Collect { ago, .. }) => {
                self.attempt(*ago).map(|(lock, _, _)| (*lock, grant.fence))
            }
            _ => None,
        };
        if let Some((lock, fence)) = granted {
            let fences = self.fences.entry(lock).or_default();
            if fences.last() != Some(&fence) {
                prop_assert!(fences.last().is_none_or(|last| *last < fence), "a fence fell");
                fences.push(fence);
            }
        }
        for at in 0..self.stores.len() {
            let seen = self.ask_store(step, at).await;
            prop_assert_eq!(&seen, &of_model, "{} differs at {:?}", self.stores[at].0, step);
        }
        Ok(())
    }

    fn attempt(&self, ago: usize) -> Option<&(usize, AcquireRequest, Attempt)> {
        self.attempts.iter().rev().nth(ago)
    }

    async fn ask_store(&mut self, step: &Step, at: usize) -> Seen {
        let (_, store, locks) = self.stores[at].clone();
        self.ask(step, Some((&store, &locks))).await
    }

    async fn ask(&mut self, step: &Step, on: Option<(&Store, &Locks)>) -> Seen {
        let pay = |due: bool| match on {
            Some((store, _)) => payment(due, store),
            None if due => Payment::Due(RateDue { bucket: "".into(), rate: RATE }),
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
            Step::Ask { due, wait_ms, .. } => {
                let (_, request, attempt) = self.attempts.last().cloned().unwrap();
                let request = AcquireRequest { payment: pay(due), ..request };
                let wait = Duration::from_millis(wait_ms);
                Seen::Asked(match on {
                    Some((_, locks)) => locks.ask(&request, attempt, wait).await.unwrap(),
                    None => self.model.ask(&request, attempt, wait),
                })
            }
            Step::Collect { ago, is_over } => match (self.attempt(ago).cloned(), on) {
                (None, _) => Seen::Withdrawn(false),
                (Some((_, request, attempt)), Some((_, locks))) => {
                    Seen::Collected(locks.collect(&request, attempt, is_over).await.unwrap())
                }
                (Some((_, request, attempt)), None) => Seen::Collected(self.model.collect(&request, attempt, is_over)),
            },
            Step::Withdraw { ago } => {
                if let Some((_, request, attempt)) = self.attempt(ago).cloned() {
                    let found = match on {
                        Some((_, locks)) => {
                            let withdrawn = locks.withdraw(&request.lock, &request.claimant, attempt).await.unwrap();
                            withdrawn != Withdrawn::Absent
                        }
                        None => self.model.withdraw(&request, attempt),
                    };
                    return Seen::Withdrawn(found);
                }
                Seen::Withdrawn(false)
            }
            Step::Look { lock: index } => Seen::Looked(match on {
                Some((_, locks)) => locks.look(&lock(index)).await.unwrap(),
                None => self.model.look(&lock(index)),
            }),
            Step::Heartbeat { lock: index, who, lease_ms, fence, due } => {
                let request = HeartbeatRequest {
                    lock: lock(index),
                    claimant: claimant(who),
                    lease: match Lease::from_ms(lease_ms) {
                        DEFAULT_LEASE => RenewedLease::LastAsked { default: DEFAULT_LEASE, max: LEASE_MAX },
                        lease => RenewedLease::For(lease),
                    },
                    fence: picked(index, fence),
                    payment: pay(due),
                };
                Seen::HeartbeatOutcome(match on {
                    Some((_, locks)) => locks.heartbeat(&request).await.unwrap(),
                    None => self.model.heartbeat(&request),
                })
            }
            Step::Release { lock: index, who, fence, due } => {
                let request = ReleaseRequest {
                    lock: lock(index),
                    claimant: claimant(who),
                    fence: picked(index, fence),
                    token: TokenEnd::of(Uuid::nil()),
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
fn a_model_the_embedded_store_and_redis_agree() {
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
        embedded_memory: u64::MAX,
    };
    let redis = Store::Redis(runtime.block_on(Redis::start(&settings, &[runtime.handle().clone()])).unwrap());

    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| runtime.block_on(run(&steps, &server, &clock, &redis)));
    outcome.unwrap();
}

async fn run(steps: &[Step], server: &RedisServer, clock: &FakeClock, redis: &Store) -> Result<(), TestCaseError> {
    server.cli(&["FLUSHALL"]);
    let hand = Hand(Arc::new(AtomicU64::new(clock.now_us())));
    let embedded = Store::Embedded(Arc::new(Embedded::new(hand.clone()).unwrap()));
    let stores = [("the embedded store", embedded), ("Redis", redis.clone())];
    let mut founded = Vec::new();
    for (name, store) in stores {
        founded.push((name, store.clone(), new_locks(store).await));
    }
    let mut trial =
        Trial { stores: founded, model: Model::at(clock.now_us()), fences: HashMap::new(), attempts: Vec::new() };
    for step in steps {
        // No two scripts run within a microsecond: positions in a queue are unlike.
        let us = if let Step::Pass { us } = step { *us } else { 1 };
        clock.advance(us);
        hand.0.fetch_add(us, Ordering::SeqCst);
        trial.model.now_us += us;
        if !matches!(step, Step::Pass { .. }) {
            trial.take(step).await?;
        }
    }
    Ok(())
}
