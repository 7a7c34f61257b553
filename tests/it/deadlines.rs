//! A command that reaches the store after its deadline changes nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lockable::{
    lock::{
        AccountId, AcquireOutcome, HeartbeatOutcome, Info, Label, Lease, LockName, NamespaceId, NotHeld, Note, Rate,
        RateBucket, RateCharge, Refusal, ReleaseOutcome, TokenEnd,
    },
    locks::{AcquireRequest, Claimant, HeartbeatRequest, LockKey, LocksError, ReleaseRequest, RenewedLease},
    store::{Clock, Embedded, Store},
};
use uuid::Uuid;

use crate::support::journal::new_locks;

/// A clock that advances by `advance_per_read` microseconds on each read, so that each command
/// reaches the store that much later.
#[derive(Clone, Default)]
struct AdvancingClock {
    now: Arc<AtomicU64>,
    advance_per_read: Arc<AtomicU64>,
}

impl Clock for AdvancingClock {
    fn now_us(&self) -> u64 {
        self.now.fetch_add(self.advance_per_read.load(Ordering::SeqCst), Ordering::SeqCst)
    }
}

#[tokio::test]
async fn late_acquire_grants_nothing_and_late_release_ends_nothing() {
    let clock = AdvancingClock { now: Arc::new(AtomicU64::new(1_000_000_000_000)), ..AdvancingClock::default() };
    let locks = new_locks(Store::Embedded(Arc::new(Embedded::new(clock.clone()).unwrap()))).await;
    let lock = LockKey { namespace: NamespaceId::Public, name: LockName::parse("late").unwrap() };
    let claimant = Claimant { account: AccountId(Uuid::new_v4()), owner: None };
    let acquire = AcquireRequest {
        lock: lock.clone(),
        claimant: claimant.clone(),
        lease: Lease::from_secs(3600),
        is_lease_asked: true,
        label: Label::parse("test").unwrap(),
        token: TokenEnd::of(Uuid::nil()),
        note: Note::default(),
        info: Info::default(),
        held_max: 100,
        waiting_max: 0,
        charge: RateCharge::Done,
    };
    let release = ReleaseRequest {
        lock: lock.clone(),
        claimant: claimant.clone(),
        fence: None,
        token: TokenEnd::of(Uuid::nil()),
        charge: RateCharge::Done,
    };
    let heartbeat = HeartbeatRequest {
        lock,
        claimant,
        lease: RenewedLease::For(Lease::from_secs(3600)),
        fence: None,
        charge: RateCharge::Done,
    };

    clock.advance_per_read.store(10_000_000, Ordering::SeqCst);
    assert!(matches!(locks.acquire(&acquire).await, Err(LocksError::TooLate)));
    clock.advance_per_read.store(0, Ordering::SeqCst);
    assert_eq!(locks.heartbeat(&heartbeat).await.unwrap().outcome, HeartbeatOutcome::Refused(NotHeld::Free));
    assert!(matches!(locks.acquire(&acquire).await.unwrap().outcome, AcquireOutcome::Granted(_)));

    clock.advance_per_read.store(10_000_000, Ordering::SeqCst);
    assert!(matches!(locks.release(&release).await, Err(LocksError::TooLate)));
    clock.advance_per_read.store(0, Ordering::SeqCst);
    assert!(matches!(locks.acquire(&acquire).await.unwrap().outcome, AcquireOutcome::Refused(Refusal::Held(_))));
    assert_eq!(locks.release(&release).await.unwrap().outcome, ReleaseOutcome::Released);
}

/// The clock is set back by an hour after each of ten grants.
#[tokio::test]
async fn fences_increase_after_the_clock_is_set_back() {
    let clock = AdvancingClock { now: Arc::new(AtomicU64::new(1_000_000_000_000)), ..AdvancingClock::default() };
    let locks = new_locks(Store::Embedded(Arc::new(Embedded::new(clock.clone()).unwrap()))).await;
    let mut fences = Vec::new();
    for round in 0..10 {
        let request = AcquireRequest {
            lock: LockKey { namespace: NamespaceId::Public, name: LockName::parse(format!("{}", round % 2)).unwrap() },
            claimant: Claimant { account: AccountId(Uuid::new_v4()), owner: None },
            lease: Lease::from_secs(1),
            is_lease_asked: true,
            label: Label::parse("test").unwrap(),
            token: TokenEnd::of(Uuid::nil()),
            note: Note::default(),
            info: Info::default(),
            held_max: 100,
            waiting_max: 0,
            charge: RateCharge::Done,
        };
        match locks.acquire(&request).await.unwrap().outcome {
            AcquireOutcome::Granted(grant) => fences.push(grant.fence),
            refused => panic!("{refused:?}"),
        }
        let release = ReleaseRequest {
            lock: request.lock,
            claimant: request.claimant,
            fence: None,
            token: request.token,
            charge: RateCharge::Done,
        };
        assert_eq!(locks.release(&release).await.unwrap().outcome, ReleaseOutcome::Released);
        clock.now.fetch_sub(3600 * 1_000_000, Ordering::SeqCst);
    }
    assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
}

/// The clock is set back by an hour after a burst: the bucket is full again, and holds no more than
/// the burst.
#[tokio::test]
async fn rate_refills_after_the_clock_is_set_back() {
    let rate = Rate { per_second: 10, burst: 4 };
    let clock = AdvancingClock { now: Arc::new(AtomicU64::new(1_000_000_000_000)), ..AdvancingClock::default() };
    let store = Store::Embedded(Arc::new(Embedded::new(clock.clone()).unwrap()));
    let request = HeartbeatRequest {
        lock: LockKey { namespace: NamespaceId::Public, name: LockName::parse("rate").unwrap() },
        claimant: Claimant { account: AccountId(Uuid::new_v4()), owner: None },
        lease: RenewedLease::For(Lease::from_secs(1)),
        fence: None,
        charge: RateCharge::InScript(RateBucket { key: store.key("0", "rate", "token").into(), rate }),
    };
    let locks = new_locks(store).await;
    let ask = async || locks.heartbeat(&request).await.unwrap().outcome;
    let next = Duration::from_millis(100);
    for set_back in [Duration::from_secs(3600), Duration::ZERO] {
        for _ in 0..rate.burst {
            assert_eq!(ask().await, HeartbeatOutcome::Refused(NotHeld::Free));
        }
        assert_eq!(ask().await, HeartbeatOutcome::RateLimited { retry_after: next });
        clock.now.fetch_sub(set_back.as_micros() as u64, Ordering::SeqCst);
    }
    // The clocks of two cluster nodes may differ like this.
    clock.now.fetch_sub(1_000_000, Ordering::SeqCst);
    assert_eq!(ask().await, HeartbeatOutcome::RateLimited { retry_after: next });
    clock.now.fetch_add(next.as_micros() as u64, Ordering::SeqCst);
    assert_eq!(ask().await, HeartbeatOutcome::Refused(NotHeld::Free));
}
