//! Random sequences of operations and time steps on a small model, the embedded store and a
//! real Redis. All three return the same outcomes.

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
        Note, Owner, Rate, RateBucket, RateCharge, ReleaseOutcome, TokenEnd,
    },
    locks::{
        AcquireProgress, AcquireRequest, Claimant, HeartbeatRequest, LockKey, Locks, QueueState, ReleaseRequest,
        RenewedLease, Reverted, WithRate,
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

/// A rate of one request per 100 ms, after a burst.
const RATE: Rate = Rate { per_second: 10, burst: 4 };
const HELD_MAX: u64 = 2;
const WAITING_MAX: u64 = 3;
/// 2026-01-01, in microseconds since 1970.
const START_US: u64 = 1_767_225_600_000_000;

#[derive(Clone, Debug)]
enum Step {
    Acquire {
        lock: usize,
        claimant_index: usize,
        lease_ms: u64,
        note: &'static str,
        in_script: bool,
        wait_ms: u64,
    },
    /// `ago` selects one of the last attempts.
    Claim {
        ago: usize,
        is_last: bool,
    },
    Revert {
        ago: usize,
    },
    PollQueue {
        lock: usize,
    },
    Heartbeat {
        lock: usize,
        claimant_index: usize,
        lease_ms: u64,
        fence: FenceChoice,
        in_script: bool,
    },
    Release {
        lock: usize,
        claimant_index: usize,
        fence: FenceChoice,
        in_script: bool,
    },
    Advance {
        us: u64,
    },
}

/// The fence in a client's request, of the lock's earlier grants.
#[derive(Clone, Copy, Debug)]
enum FenceChoice {
    None,
    Last,
    BeforeLast,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Most steps use the same lock, so that it has a queue.
    let lock = prop_oneof![3 => Just(0), 2 => 0..4_usize];
    let claimant_index = 0..5_usize;
    let lease_ms = prop_oneof![Just(1000), Just(1500), Just(60_000), Just(3_600_000)];
    let choice =
        prop_oneof![3 => Just(FenceChoice::None), 2 => Just(FenceChoice::Last), 1 => Just(FenceChoice::BeforeLast)];
    let note = prop_oneof![Just(""), Just("build 1234, by ana"), Just("é ü \\n %")];
    // Includes the millisecond before, of and after an expiry.
    let advance = prop_oneof![
        0..2_000_000_u64,
        Just(999_000),
        Just(1_000_000),
        Just(1_001_000),
        // The expiries of an unclaimed hand-over and of a reservation.
        Just(5_000_000),
        Just(5_001_000),
        Just(10_000_000),
        Just(10_001_000),
        Just(60_000_000),
        Just(60_001_000),
        Just(3_600_001_000),
    ];
    let in_script = prop::bool::weighted(0.3);
    let wait_ms = prop_oneof![2 => Just(0), 3 => Just(30_000), 1 => Just(2_000)];
    let step = prop_oneof![
        6 => (lock.clone(), claimant_index.clone(), lease_ms.clone(), note, in_script, wait_ms)
            .prop_map(|(lock, claimant_index, lease_ms, note, in_script, wait_ms)| Step::Acquire { lock, claimant_index, lease_ms, note, in_script, wait_ms }),
        4 => (0..6_usize, prop::bool::weighted(0.3)).prop_map(|(ago, is_last)| Step::Claim { ago, is_last }),
        1 => (0..6_usize).prop_map(|ago| Step::Revert { ago }),
        1 => lock.clone().prop_map(|lock| Step::PollQueue { lock }),
        2 => (lock.clone(), claimant_index.clone(), lease_ms, choice.clone(), in_script)
            .prop_map(|(lock, claimant_index, lease_ms, fence, in_script)| Step::Heartbeat { lock, claimant_index, lease_ms, fence, in_script }),
        2 => (lock, claimant_index, choice, in_script).prop_map(|(lock, claimant_index, fence, in_script)| Step::Release { lock, claimant_index, fence, in_script }),
        3 => advance.prop_map(|us| Step::Advance { us }),
    ];
    vec(step, 1..80)
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq)]
enum StepOutcome {
    Acquired(WithRate<AcquireProgress>),
    Claimed(AcquireProgress),
    Polled(QueueState),
    Reverted(bool),
    Heartbeat(WithRate<HeartbeatOutcome>),
    Released(WithRate<ReleaseOutcome>),
}

#[derive(Clone, Default)]
struct ManualClock(Arc<AtomicU64>);

impl Clock for ManualClock {
    fn now_us(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn claimant(claimant_index: usize) -> Claimant {
    let (account, owner) = [(1, None), (1, Some("ana")), (1, Some("bob")), (2, None), (2, Some("ana"))][claimant_index];
    Claimant { account: AccountId(Uuid::from_u128(account)), owner: owner.map(|text| Owner::parse(text).unwrap()) }
}

fn lock(index: usize) -> LockKey {
    let namespaces = [NamespaceId::Public, NamespaceId::Private(Uuid::from_u128(7))];
    let names = ["deploy", "team/deploy"];
    LockKey { namespace: namespaces[index % 2], name: LockName::parse(names[index / 2]).unwrap() }
}

/// The bucket's key has the prefix of the store and the hash slot of the locks.
fn charge(in_script: bool, store: &Store) -> RateCharge {
    match in_script {
        true => RateCharge::InScript(RateBucket { key: store.key("0", "rate", "token").into(), rate: RATE }),
        false => RateCharge::Done,
    }
}

/// Steps with this lease send a request without a lease.
const DEFAULT_LEASE: Lease = Lease::from_secs(60);
/// The maximum lease of a heartbeat without a lease.
const LEASE_MAX: Lease = Lease::from_secs(1800);

/// The stores and the model, at the same time.
struct Trial {
    stores: Vec<(&'static str, Store, Locks)>,
    model: Model,
    fences: HashMap<usize, Vec<FencingToken>>,
    attempts: Vec<(usize, AcquireRequest, Attempt)>,
}

impl Trial {
    async fn run_step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        if let Step::Acquire { lock: index, claimant_index, lease_ms, note, .. } = *step {
            let request = AcquireRequest {
                lock: lock(index),
                claimant: claimant(claimant_index),
                lease: Lease::from_ms(lease_ms),
                is_lease_asked: Lease::from_ms(lease_ms) != DEFAULT_LEASE,
                label: Label::parse("ci").unwrap(),
                token: TokenEnd::of(Uuid::nil()),
                note: Note::parse(note).unwrap(),
                info: Info::parse(if claimant_index == 1 { "{}" } else { "" }).unwrap(),
                held_max: HELD_MAX,
                waiting_max: WAITING_MAX,
                charge: RateCharge::Done,
            };
            self.attempts.push((index, request, Attempt::new()));
        }
        let expected = self.apply(step, None).await;
        let granted = match (&expected, step) {
            (
                StepOutcome::Acquired(WithRate {
                    outcome: AcquireProgress::Done(AcquireOutcome::Granted(grant)), ..
                }),
                Step::Acquire { lock, .. },
            ) => Some((*lock, grant.fence)),
            (StepOutcome::Claimed(AcquireProgress::Done(AcquireOutcome::Granted(grant))), Step::Claim { ago, .. }) => {
                self.attempt(*ago).map(|(lock, _, _)| (*lock, grant.fence))
            }
            _ => None,
        };
        if let Some((lock, fence)) = granted {
            let fences = self.fences.entry(lock).or_default();
            if fences.last() != Some(&fence) {
                prop_assert!(fences.last().is_none_or(|last| *last < fence), "the fence did not rise");
                fences.push(fence);
            }
        }
        for at in 0..self.stores.len() {
            let outcome_of_store = self.apply_to_store(step, at).await;
            prop_assert_eq!(&outcome_of_store, &expected, "{} differs from the model at {:?}", self.stores[at].0, step);
        }
        Ok(())
    }

    fn attempt(&self, ago: usize) -> Option<&(usize, AcquireRequest, Attempt)> {
        self.attempts.iter().rev().nth(ago)
    }

    async fn apply_to_store(&mut self, step: &Step, at: usize) -> StepOutcome {
        let (_, store, locks) = self.stores[at].clone();
        self.apply(step, Some((&store, &locks))).await
    }

    async fn apply(&mut self, step: &Step, target: Option<(&Store, &Locks)>) -> StepOutcome {
        let charge_of = |in_script: bool| match target {
            Some((store, _)) => charge(in_script, store),
            None if in_script => RateCharge::InScript(RateBucket { key: "".into(), rate: RATE }),
            None => RateCharge::Done,
        };
        let chosen = |index: usize, choice: FenceChoice| {
            let mut fences = self.fences.get(&index).into_iter().flatten().rev().copied();
            match choice {
                FenceChoice::None => None,
                FenceChoice::Last => fences.next(),
                FenceChoice::BeforeLast => fences.nth(1),
            }
        };
        match *step {
            Step::Acquire { in_script, wait_ms, .. } => {
                let (_, request, attempt) = self.attempts.last().cloned().unwrap();
                let request = AcquireRequest { charge: charge_of(in_script), ..request };
                let wait = Duration::from_millis(wait_ms);
                StepOutcome::Acquired(match target {
                    Some((_, locks)) => locks.acquire_or_enqueue(&request, attempt, wait).await.unwrap(),
                    None => self.model.acquire(&request, attempt, wait),
                })
            }
            Step::Claim { ago, is_last } => match (self.attempt(ago).cloned(), target) {
                (None, _) => StepOutcome::Reverted(false),
                (Some((_, request, attempt)), Some((_, locks))) => {
                    StepOutcome::Claimed(locks.claim(&request, attempt, is_last).await.unwrap())
                }
                (Some((_, request, attempt)), None) => {
                    StepOutcome::Claimed(self.model.claim(&request, attempt, is_last))
                }
            },
            Step::Revert { ago } => {
                if let Some((_, request, attempt)) = self.attempt(ago).cloned() {
                    let found = match target {
                        Some((_, locks)) => {
                            let reverted = locks.revert(&request.lock, &request.claimant, attempt).await.unwrap();
                            reverted != Reverted::Absent
                        }
                        None => self.model.revert(&request, attempt),
                    };
                    return StepOutcome::Reverted(found);
                }
                StepOutcome::Reverted(false)
            }
            Step::PollQueue { lock: index } => StepOutcome::Polled(match target {
                Some((_, locks)) => locks.poll_queue(&lock(index)).await.unwrap(),
                None => self.model.poll_queue(&lock(index)),
            }),
            Step::Heartbeat { lock: index, claimant_index, lease_ms, fence, in_script } => {
                let request = HeartbeatRequest {
                    lock: lock(index),
                    claimant: claimant(claimant_index),
                    lease: match Lease::from_ms(lease_ms) {
                        DEFAULT_LEASE => RenewedLease::LastAsked { default: DEFAULT_LEASE, max: LEASE_MAX },
                        lease => RenewedLease::For(lease),
                    },
                    fence: chosen(index, fence),
                    charge: charge_of(in_script),
                };
                StepOutcome::Heartbeat(match target {
                    Some((_, locks)) => locks.heartbeat(&request).await.unwrap(),
                    None => self.model.heartbeat(&request),
                })
            }
            Step::Release { lock: index, claimant_index, fence, in_script } => {
                let request = ReleaseRequest {
                    lock: lock(index),
                    claimant: claimant(claimant_index),
                    fence: chosen(index, fence),
                    token: TokenEnd::of(Uuid::nil()),
                    charge: charge_of(in_script),
                };
                StepOutcome::Released(match target {
                    Some((_, locks)) => locks.release(&request).await.unwrap(),
                    None => self.model.release(&request),
                })
            }
            Step::Advance { .. } => unreachable!("the caller advances the time"),
        }
    }
}

#[test]
fn model_and_embedded_store_and_redis_return_same_outcomes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (server, clock) = RedisServer::builder().start_with_clock(START_US);
    let settings = RedisSettings {
        url: Some(server.url().parse().unwrap()),
        // Deadlines count from the last sample of the server's clock, which jumps by hours
        // in this test.
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
    let manual_clock = ManualClock(Arc::new(AtomicU64::new(clock.now_us())));
    let embedded = Store::Embedded(Arc::new(Embedded::new(manual_clock.clone()).unwrap()));
    let stores = [("the embedded store", embedded), ("Redis", redis.clone())];
    let mut stores_with_locks = Vec::new();
    for (name, store) in stores {
        stores_with_locks.push((name, store.clone(), new_locks(store).await));
    }
    let mut trial = Trial {
        stores: stores_with_locks,
        model: Model::at(clock.now_us()),
        fences: HashMap::new(),
        attempts: Vec::new(),
    };
    for step in steps {
        // Scripts run at least a microsecond apart, so that queue positions differ.
        let us = if let Step::Advance { us } = step { *us } else { 1 };
        clock.advance(us);
        manual_clock.0.fetch_add(us, Ordering::SeqCst);
        trial.model.now_us += us;
        if !matches!(step, Step::Advance { .. }) {
            trial.run_step(step).await?;
        }
    }
    Ok(())
}
