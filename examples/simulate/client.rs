//! The clients: each step of a history becomes a request, as `src/http` would make it. The oracle
//! receives the request and its answer.

use std::{sync::Arc, time::Duration};

use lockable::{
    lock::{
        AccountId, AcquireOutcome, BreakOutcome, FencingToken, HeartbeatOutcome, Info, Label, Lease, LockName,
        NamespaceId, NotHeld, Note, Owner, RateCharge, Refusal, ReleaseOutcome, TokenEnd,
    },
    locks::{
        AcquireRequest, BreakRequest, Claimant, HeartbeatRequest, LockKey, Locks, LocksError, ReadOutcome,
        ReleaseRequest, RenewedLease, WithRate,
    },
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    cluster::{CallOutcome, Cluster},
    history::{Action, History, Step},
    oracle::{Oracle, Outcome, RequestKind},
};

pub struct Clients {
    cluster: Arc<Cluster>,
    oracle: Arc<Oracle>,
    claimants: Vec<Claimant>,
    locks: Vec<LockKey>,
    held_max: u64,
}

impl Clients {
    pub fn new(history: &History, cluster: Arc<Cluster>, oracle: Arc<Oracle>) -> Arc<Self> {
        let claimants = history.holders.iter().enumerate().map(|(number, holder)| Claimant {
            account: account(holder.account),
            owner: holder.has_owner.then(|| Owner::parse(format!("o{number}")).unwrap()),
        });
        let locks = (0..history.locks).map(lock_key).collect();
        Arc::new(Self { cluster, oracle, claimants: claimants.collect(), locks, held_max: history.held_max })
    }

    /// Executes a step, unless a client with this knowledge would not send the request.
    pub async fn run_step(&self, id: u64, step: Step) {
        let Step { lock, holder, server, hang_up_ms, action, .. } = step;
        let oracle = &self.oracle;
        let (relies, fence) = (oracle.relies(lock, holder), oracle.fence_of(lock, holder));
        let has_owner = self.claimants[holder].owner.is_some();
        let hang_up = hang_up_ms.map(Duration::from_millis);
        let kind = match action {
            Action::Acquire { .. } if oracle.is_releasing(lock, holder) || (relies && !has_owner) => return,
            Action::Acquire { lease_ms, wait_ms } => RequestKind::Acquire { lease_ms, wait_ms },
            Action::Heartbeat { .. } if !oracle.believes_it_holds(lock, holder) => return,
            Action::Heartbeat { lease_ms, with_fence } => {
                RequestKind::Heartbeat { lease_ms, fence: fence.filter(|_| with_fence || !has_owner) }
            }
            Action::Release { .. } if fence.is_none() => return,
            Action::Release { with_fence } => {
                RequestKind::Release { fence: fence.filter(|_| with_fence || !has_owner) }
            }
            Action::Break => match oracle.holder_of(lock) {
                Some((_, fence)) => RequestKind::Break { fence },
                None => return,
            },
            // With the old fence, so that it does not concern a newer grant of the owner.
            Action::StaleHeartbeat { lease_ms } if !relies && fence.is_some() => {
                RequestKind::Heartbeat { lease_ms, fence }
            }
            Action::StaleHeartbeat { .. } => return,
        };
        let world = &self.cluster.world;
        world.note((holder, lock, server), || format!("#{id} {step}"));
        oracle.send((lock, holder), server, id, kind);
        let outcome = self.request(lock, holder, server, hang_up, kind).await;
        world.note((id, format!("{outcome:?}")), || format!("#{id} h{holder}: {outcome:?}"));
        oracle.answer(lock, id, outcome);
    }

    async fn request(
        &self,
        lock: usize,
        holder: usize,
        server: usize,
        hang_up: Option<Duration>,
        kind: RequestKind,
    ) -> Outcome {
        let (lock, claimant) = (self.locks[lock].clone(), self.claimants[holder].clone());
        let charge = RateCharge::Done;
        match kind {
            RequestKind::Acquire { lease_ms, wait_ms } => {
                let request = acquire_request(lock, claimant, lease_ms, self.held_max);
                let called = self.cluster.call(server, hang_up, move |locks| acquire(locks, request, wait_ms)).await;
                // The error proves that the acquire had no effect.
                if matches!(&called, CallOutcome::Answered(Err(error)) if error.is_sure()) {
                    return Outcome::NoEffect;
                }
                read(called, |acquired| match acquired {
                    AcquireOutcome::Granted(grant) | AcquireOutcome::Again(grant) => {
                        Outcome::Granted { fence: grant.fence.as_u64(), lease_ms: grant.lease.as_ms() }
                    }
                    AcquireOutcome::Refused(Refusal::Held(_)) => Outcome::Refused,
                    AcquireOutcome::Refused(_) => Outcome::NoEffect,
                })
            }
            RequestKind::Heartbeat { lease_ms, fence } => {
                let lease = RenewedLease::For(Lease::from_ms(lease_ms));
                let request = HeartbeatRequest { lock, claimant, lease, fence: fence.map(fence_of), charge };
                let handler = move |locks: Locks| async move { locks.heartbeat(&request).await };
                read(self.cluster.call(server, hang_up, handler).await, |outcome| match outcome {
                    HeartbeatOutcome::Renewed(grant) => {
                        Outcome::Granted { fence: grant.fence.as_u64(), lease_ms: grant.lease.as_ms() }
                    }
                    HeartbeatOutcome::Refused(_) => Outcome::Refused,
                    HeartbeatOutcome::RateLimited { .. } => Outcome::NoEffect,
                })
            }
            RequestKind::Release { fence } => {
                let request = ReleaseRequest { lock, claimant, fence: fence.map(fence_of), token: token(), charge };
                let handler = move |locks: Locks| async move { locks.release(&request).await };
                read(self.cluster.call(server, hang_up, handler).await, |released| match released {
                    ReleaseOutcome::Released | ReleaseOutcome::ByAnother(_) => Outcome::Released,
                    ReleaseOutcome::Refused(NotHeld::HeldByAnother) => Outcome::HeldByAnother,
                    ReleaseOutcome::Refused(NotHeld::Free) => Outcome::Refused,
                    ReleaseOutcome::RateLimited { .. } => Outcome::NoEffect,
                })
            }
            RequestKind::Break { fence } => {
                // The step does not contain the holder's account: one of the two holds the grant, or
                // none.
                let accounts = [account(0), account(1)];
                for account in accounts {
                    let request = BreakRequest { lock: lock.clone(), account, fence: fence_of(fence) };
                    let handler = move |locks: Locks| async move {
                        let outcome = locks.break_grant(&request).await?;
                        Ok(WithRate { outcome, rate: None })
                    };
                    let outcome = read(self.cluster.call(server, None, handler).await, |broken| match broken {
                        BreakOutcome::Broken => Outcome::Broken,
                        BreakOutcome::Refused(_) => Outcome::Refused,
                    });
                    if !matches!(outcome, Outcome::Refused) {
                        return outcome;
                    }
                }
                Outcome::Refused
            }
        }
    }

    /// Sends a release for a holder. Returns whether it certainly has no grant afterwards.
    pub async fn release(&self, lock: usize, holder: usize, id: u64) -> bool {
        let fence = self.oracle.fence_of(lock, holder);
        let has_owner = self.claimants[holder].owner.is_some();
        if fence.is_none() && !has_owner {
            return true;
        }
        let kind = RequestKind::Release { fence: fence.filter(|_| !has_owner) };
        self.oracle.send((lock, holder), 0, id, kind);
        let outcome = self.request(lock, holder, 0, None, kind).await;
        self.cluster.world.note(id, || format!("#{id} h{holder} releases: {outcome:?}"));
        self.oracle.answer(lock, id, outcome);
        matches!(outcome, Outcome::Released | Outcome::Refused | Outcome::HeldByAnother)
    }

    /// Acquires a lock as a new owner, and releases it. Returns its fence, or the refusal.
    pub async fn probe(&self, lock: usize, id: u64) -> Result<u64, String> {
        let claimant = Claimant { account: account(0), owner: Some(Owner::parse(format!("probe{id}")).unwrap()) };
        let request = acquire_request(self.locks[lock].clone(), claimant.clone(), 1000, self.held_max);
        let called = self.cluster.call(0, None, move |locks| acquire(locks, request, 0)).await;
        let fence = match called {
            CallOutcome::Answered(Ok(WithRate { outcome: AcquireOutcome::Granted(grant), .. })) => grant.fence.as_u64(),
            CallOutcome::Answered(Ok(WithRate { outcome, .. })) => return Err(format!("{outcome:?}")),
            CallOutcome::Answered(Err(error)) => return Err(error.to_string()),
            _ => return Err("no answer".into()),
        };
        let request = ReleaseRequest {
            lock: self.locks[lock].clone(),
            claimant,
            fence: Some(fence_of(fence)),
            token: token(),
            charge: RateCharge::Done,
        };
        let _ = self.cluster.call(0, None, move |locks| async move { locks.release(&request).await }).await;
        Ok(fence)
    }

    /// The usage of both accounts, as counted for their quotas.
    pub async fn usage(&self) -> Result<u64, String> {
        let handler = |locks: Locks| async move {
            let mut held = 0;
            for number in 0..2 {
                match locks.usage(account(number), &RateCharge::Done).await?.outcome {
                    ReadOutcome::Found(usage) => held += usage.held + usage.waiting,
                    ReadOutcome::RateLimited { .. } => {}
                }
            }
            Ok::<_, LocksError>(held)
        };
        match self.cluster.call(0, None, handler).await {
            CallOutcome::Answered(Ok(held)) => Ok(held),
            CallOutcome::Answered(Err(error)) => Err(error.to_string()),
            _ => Err("no answer".into()),
        }
    }
}

async fn acquire(locks: Locks, request: AcquireRequest, wait_ms: u64) -> Result<WithRate<AcquireOutcome>, LocksError> {
    match wait_ms {
        0 => locks.acquire(&request).await,
        _ => {
            let draining = CancellationToken::new();
            let wait = Duration::from_millis(wait_ms);
            let waited = locks.acquire_waiting(&request, wait, &draining, &Notify::new()).await?;
            Ok(waited.confirm())
        }
    }
}

fn read<T>(called: CallOutcome<Result<WithRate<T>, LocksError>>, outcome: impl FnOnce(T) -> Outcome) -> Outcome {
    match called {
        CallOutcome::Answered(Ok(answer)) => outcome(answer.outcome),
        CallOutcome::Answered(Err(_)) => Outcome::Unavailable,
        CallOutcome::HungUp => Outcome::HungUp,
        CallOutcome::NoAnswer => Outcome::NoAnswer,
        CallOutcome::NotRead => Outcome::NoEffect,
    }
}

fn acquire_request(lock: LockKey, claimant: Claimant, lease_ms: u64, held_max: u64) -> AcquireRequest {
    AcquireRequest {
        lock,
        claimant,
        lease: Lease::from_ms(lease_ms),
        is_lease_asked: true,
        label: Label::parse("sim").unwrap(),
        token: token(),
        note: Note::default(),
        info: Info::default(),
        held_max,
        waiting_max: 10,
        charge: RateCharge::Done,
    }
}

pub fn lock_key(number: usize) -> LockKey {
    LockKey { namespace: NamespaceId::Public, name: LockName::parse(format!("l{number}")).unwrap() }
}

fn account(number: usize) -> AccountId {
    AccountId(Uuid::from_u128(0xacc0 + number as u128))
}

/// The token of all requests.
fn token() -> TokenEnd {
    TokenEnd::of(Uuid::nil())
}

fn fence_of(fence: u64) -> FencingToken {
    fence.to_string().parse().unwrap()
}
