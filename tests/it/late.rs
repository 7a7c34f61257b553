//! A command that reaches the store after its deadline does nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lockable::{
    lock::{
        AccountId, AcquireOutcome, HeartbeatOutcome, Info, Label, Lease, LockName, NamespaceId, NotHeld, Note, Payment,
        Rate, RateDue, Refusal, ReleaseOutcome, TokenEnd,
    },
    locks::{AcquireRequest, Claimant, HeartbeatRequest, LockId, LocksError, ReleaseRequest, RenewedLease},
    store::{Clock, Embedded, Store},
};
use uuid::Uuid;

use crate::support::journal::new_locks;

/// A clock that runs ahead by `stride` microseconds each time it is read: what
/// a pod sends is as late as that.
#[derive(Clone, Default)]
struct Striding {
    now: Arc<AtomicU64>,
    stride: Arc<AtomicU64>,
}

impl Clock for Striding {
    fn now_us(&self) -> u64 {
        self.now.fetch_add(self.stride.load(Ordering::SeqCst), Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_late_acquire_grants_nothing_and_a_late_release_takes_nothing() {
    let clock = Striding { now: Arc::new(AtomicU64::new(1_000_000_000_000)), ..Striding::default() };
    let locks = new_locks(Store::Embedded(Arc::new(Embedded::new(clock.clone()).unwrap()))).await;
    let lock = LockId { namespace: NamespaceId::Public, name: LockName::parse("late").unwrap() };
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
        payment: Payment::Paid,
    };
    let release = ReleaseRequest {
        lock: lock.clone(),
        claimant: claimant.clone(),
        fence: None,
        token: TokenEnd::of(Uuid::nil()),
        payment: Payment::Paid,
    };
    let heartbeat = HeartbeatRequest {
        lock,
        claimant,
        lease: RenewedLease::For(Lease::from_secs(3600)),
        fence: None,
        payment: Payment::Paid,
    };

    clock.stride.store(10_000_000, Ordering::SeqCst);
    assert!(matches!(locks.acquire(&acquire).await, Err(LocksError::TooLate)));
    clock.stride.store(0, Ordering::SeqCst);
    assert_eq!(locks.heartbeat(&heartbeat).await.unwrap().outcome, HeartbeatOutcome::Refused(NotHeld::Free));
    assert!(matches!(locks.acquire(&acquire).await.unwrap().outcome, AcquireOutcome::Granted(_)));

    clock.stride.store(10_000_000, Ordering::SeqCst);
    assert!(matches!(locks.release(&release).await, Err(LocksError::TooLate)));
    clock.stride.store(0, Ordering::SeqCst);
    assert!(matches!(locks.acquire(&acquire).await.unwrap().outcome, AcquireOutcome::Refused(Refusal::Held(_))));
    assert_eq!(locks.release(&release).await.unwrap().outcome, ReleaseOutcome::Released);
}

/// A step of the clock back by a day, during which locks are granted: fences
/// rise all the same.
#[tokio::test]
async fn fences_rise_though_the_clock_is_set_back() {
    let clock = Striding { now: Arc::new(AtomicU64::new(1_000_000_000_000)), ..Striding::default() };
    let locks = new_locks(Store::Embedded(Arc::new(Embedded::new(clock.clone()).unwrap()))).await;
    let mut fences = Vec::new();
    for round in 0..10 {
        let request = AcquireRequest {
            lock: LockId { namespace: NamespaceId::Public, name: LockName::parse(format!("{}", round % 2)).unwrap() },
            claimant: Claimant { account: AccountId(Uuid::new_v4()), owner: None },
            lease: Lease::from_secs(1),
            is_lease_asked: true,
            label: Label::parse("test").unwrap(),
            token: TokenEnd::of(Uuid::nil()),
            note: Note::default(),
            info: Info::default(),
            held_max: 100,
            waiting_max: 0,
            payment: Payment::Paid,
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
            payment: Payment::Paid,
        };
        assert_eq!(locks.release(&release).await.unwrap().outcome, ReleaseOutcome::Released);
        clock.now.fetch_sub(3600 * 1_000_000, Ordering::SeqCst);
    }
    assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
}

/// A burst is used up, then the clock is set back by an hour: the token does not wait
/// for the hour to come again, and has no more than its burst.
#[tokio::test]
async fn a_rate_does_not_wait_for_a_time_that_was_set_back() {
    let rate = Rate { per_second: 10, burst: 4 };
    let clock = Striding { now: Arc::new(AtomicU64::new(1_000_000_000_000)), ..Striding::default() };
    let store = Store::Embedded(Arc::new(Embedded::new(clock.clone()).unwrap()));
    let request = HeartbeatRequest {
        lock: LockId { namespace: NamespaceId::Public, name: LockName::parse("rate").unwrap() },
        claimant: Claimant { account: AccountId(Uuid::new_v4()), owner: None },
        lease: RenewedLease::For(Lease::from_secs(1)),
        fence: None,
        payment: Payment::Due(RateDue { bucket: store.key("0", "rate", "token").into(), rate }),
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
    // As two nodes of a cluster may differ.
    clock.now.fetch_sub(1_000_000, Ordering::SeqCst);
    assert_eq!(ask().await, HeartbeatOutcome::RateLimited { retry_after: next });
    clock.now.fetch_add(next.as_micros() as u64, Ordering::SeqCst);
    assert_eq!(ask().await, HeartbeatOutcome::Refused(NotHeld::Free));
}
