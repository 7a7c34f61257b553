//! The clients: each step of a history is a request as `src/http` would make it, and what
//! its client knows from the answer.

use std::{sync::Arc, time::Duration};

use lockable::{
    lock::{
        AccountId, AcquireOutcome, BreakOutcome, FencingToken, HeartbeatOutcome, Info, Label, Lease, LockName,
        NamespaceId, Note, Owner, Payment, Refusal, ReleaseOutcome, TokenEnd,
    },
    locks::{
        AcquireRequest, Answer, BreakRequest, Claimant, HeartbeatRequest, LockId, Locks, LocksError, Looked,
        ReleaseRequest, RenewedLease,
    },
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    cluster::{Called, Cluster},
    history::{Act, History, Step},
    knowledge::{Kind, Knowledge, Outcome},
};

pub struct Clients {
    cluster: Arc<Cluster>,
    knowledge: Arc<Knowledge>,
    claimants: Vec<Claimant>,
    locks: Vec<LockId>,
    held_max: u64,
}

impl Clients {
    pub fn new(history: &History, cluster: Arc<Cluster>, knowledge: Arc<Knowledge>) -> Arc<Self> {
        let claimants = history.holders.iter().enumerate().map(|(number, holder)| Claimant {
            account: account(holder.account),
            owner: holder.has_owner.then(|| Owner::parse(format!("o{number}")).unwrap()),
        });
        let locks = (0..history.locks).map(lock_id).collect();
        Arc::new(Self { cluster, knowledge, claimants: claimants.collect(), locks, held_max: history.held_max })
    }

    /// Takes a step, if it makes sense by what its client knows.
    pub async fn take(&self, id: u64, step: Step) {
        let Step { lock, holder, server, hang_up_ms, act, .. } = step;
        let knowledge = &self.knowledge;
        let (relies, fence) = (knowledge.relies(lock, holder), knowledge.fence_of(lock, holder));
        let has_owner = self.claimants[holder].owner.is_some();
        let hang_up = hang_up_ms.map(Duration::from_millis);
        let kind = match act {
            Act::Acquire { .. } if knowledge.is_releasing(lock, holder) || (relies && !has_owner) => return,
            Act::Acquire { lease_ms, wait_ms } => Kind::Acquire { lease_ms, wait_ms },
            Act::Heartbeat { .. } if !knowledge.thinks_it_holds(lock, holder) => return,
            Act::Heartbeat { lease_ms, with_fence } => {
                Kind::Heartbeat { lease_ms, fence: fence.filter(|_| with_fence || !has_owner) }
            }
            Act::Release { .. } if fence.is_none() => return,
            Act::Release { with_fence } => Kind::Release { fence: fence.filter(|_| with_fence || !has_owner) },
            Act::Break => match knowledge.holder_of(lock) {
                Some((_, fence)) => Kind::Break { fence },
                None => return,
            },
            // The old fence is named: what the owner holds meanwhile is not meant.
            Act::Stray { lease_ms } if !relies && fence.is_some() => Kind::Heartbeat { lease_ms, fence },
            Act::Stray { .. } => return,
        };
        let world = &self.cluster.world;
        world.note((holder, lock, server), || format!("#{id} {step}"));
        knowledge.send((lock, holder), server, id, kind);
        let outcome = self.request(lock, holder, server, hang_up, kind).await;
        world.note((id, format!("{outcome:?}")), || format!("#{id} h{holder}: {outcome:?}"));
        knowledge.answer(lock, id, outcome);
    }

    async fn request(
        &self,
        lock: usize,
        holder: usize,
        server: usize,
        hang_up: Option<Duration>,
        kind: Kind,
    ) -> Outcome {
        let (lock, claimant) = (self.locks[lock].clone(), self.claimants[holder].clone());
        let payment = Payment::Paid;
        match kind {
            Kind::Acquire { lease_ms, wait_ms } => {
                let request = acquire_request(lock, claimant, lease_ms, self.held_max);
                let called = self.cluster.call(server, hang_up, move |locks| acquire(locks, request, wait_ms)).await;
                // Of a heartbeat that was asked again in a recovery the last answer alone is known.
                if matches!(&called, Called::Answered(Err(error)) if error.is_sure()) {
                    return Outcome::Void;
                }
                read(called, |acquired| match acquired {
                    AcquireOutcome::Granted(grant) | AcquireOutcome::Again(grant) => {
                        Outcome::Granted { fence: grant.fence.as_u64(), lease_ms: grant.lease.as_ms() }
                    }
                    AcquireOutcome::Refused(Refusal::Held(_)) => Outcome::No,
                    AcquireOutcome::Refused(_) => Outcome::Void,
                })
            }
            Kind::Heartbeat { lease_ms, fence } => {
                let lease = RenewedLease::For(Lease::from_ms(lease_ms));
                let request = HeartbeatRequest { lock, claimant, lease, fence: fence.map(fence_of), payment };
                let handler = move |locks: Locks| async move { locks.heartbeat(&request).await };
                read(self.cluster.call(server, hang_up, handler).await, |heartbeaten| match heartbeaten {
                    HeartbeatOutcome::Renewed(grant) => {
                        Outcome::Granted { fence: grant.fence.as_u64(), lease_ms: grant.lease.as_ms() }
                    }
                    HeartbeatOutcome::Refused(_) => Outcome::No,
                    HeartbeatOutcome::RateLimited { .. } => Outcome::Void,
                })
            }
            Kind::Release { fence } => {
                let request = ReleaseRequest { lock, claimant, fence: fence.map(fence_of), token: token(), payment };
                let handler = move |locks: Locks| async move { locks.release(&request).await };
                read(self.cluster.call(server, hang_up, handler).await, |released| match released {
                    ReleaseOutcome::Released | ReleaseOutcome::ByAnother(_) => Outcome::Released,
                    ReleaseOutcome::Refused(_) => Outcome::No,
                    ReleaseOutcome::RateLimited { .. } => Outcome::Void,
                })
            }
            Kind::Break { fence } => {
                // Whoever holds it now is of another account, or it is not broken.
                let accounts = [account(0), account(1)];
                for account in accounts {
                    let request = BreakRequest { lock: lock.clone(), account, fence: fence_of(fence) };
                    let handler = move |locks: Locks| async move {
                        let outcome = locks.break_grant(&request).await?;
                        Ok(Answer { outcome, standing: None })
                    };
                    let outcome = read(self.cluster.call(server, None, handler).await, |broken| match broken {
                        BreakOutcome::Broken => Outcome::Broken,
                        BreakOutcome::Refused(_) => Outcome::No,
                    });
                    if !matches!(outcome, Outcome::No) {
                        return outcome;
                    }
                }
                Outcome::No
            }
        }
    }

    /// Releases what this holder may hold, until it is sure that it holds nothing.
    pub async fn let_go(&self, lock: usize, holder: usize, id: u64) -> bool {
        let fence = self.knowledge.fence_of(lock, holder);
        let has_owner = self.claimants[holder].owner.is_some();
        if fence.is_none() && !has_owner {
            return true;
        }
        let kind = Kind::Release { fence: fence.filter(|_| !has_owner) };
        self.knowledge.send((lock, holder), 0, id, kind);
        let outcome = self.request(lock, holder, 0, None, kind).await;
        self.cluster.world.note(id, || format!("#{id} h{holder} lets go: {outcome:?}"));
        self.knowledge.answer(lock, id, outcome);
        matches!(outcome, Outcome::Released | Outcome::No)
    }

    /// Whether somebody new gets a lock now, and under which fence. It is given back.
    pub async fn probe(&self, lock: usize, id: u64) -> Result<u64, String> {
        let claimant = Claimant { account: account(0), owner: Some(Owner::parse(format!("probe{id}")).unwrap()) };
        let request = acquire_request(self.locks[lock].clone(), claimant.clone(), 1000, self.held_max);
        let called = self.cluster.call(0, None, move |locks| acquire(locks, request, 0)).await;
        let fence = match called {
            Called::Answered(Ok(Answer { outcome: AcquireOutcome::Granted(grant), .. })) => grant.fence.as_u64(),
            Called::Answered(Ok(Answer { outcome, .. })) => return Err(format!("{outcome:?}")),
            Called::Answered(Err(error)) => return Err(error.to_string()),
            _ => return Err("no answer".into()),
        };
        let request = ReleaseRequest {
            lock: self.locks[lock].clone(),
            claimant,
            fence: Some(fence_of(fence)),
            token: token(),
            payment: Payment::Paid,
        };
        let _ = self.cluster.call(0, None, move |locks| async move { locks.release(&request).await }).await;
        Ok(fence)
    }

    /// How many locks each account holds, as its quota counts them.
    pub async fn held(&self) -> Result<u64, String> {
        let handler = |locks: Locks| async move {
            let mut held = 0;
            for number in 0..2 {
                match locks.census(account(number), &Payment::Paid).await?.outcome {
                    Looked::Found(census) => held += census.held + census.waiting,
                    Looked::RateLimited { .. } => {}
                }
            }
            Ok::<_, LocksError>(held)
        };
        match self.cluster.call(0, None, handler).await {
            Called::Answered(Ok(held)) => Ok(held),
            Called::Answered(Err(error)) => Err(error.to_string()),
            _ => Err("no answer".into()),
        }
    }
}

async fn acquire(locks: Locks, request: AcquireRequest, wait_ms: u64) -> Result<Answer<AcquireOutcome>, LocksError> {
    match wait_ms {
        0 => locks.acquire(&request).await,
        _ => {
            let draining = CancellationToken::new();
            let waited = locks.acquire_in_line(&request, Duration::from_millis(wait_ms), &draining).await?;
            Ok(waited.keep())
        }
    }
}

fn read<T>(called: Called<Result<Answer<T>, LocksError>>, outcome: impl FnOnce(T) -> Outcome) -> Outcome {
    match called {
        Called::Answered(Ok(answer)) => outcome(answer.outcome),
        Called::Answered(Err(_)) => Outcome::Failed,
        Called::HungUp => Outcome::HungUp,
        Called::Lost => Outcome::Lost,
        Called::Unheard => Outcome::Void,
    }
}

fn acquire_request(lock: LockId, claimant: Claimant, lease_ms: u64, held_max: u64) -> AcquireRequest {
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
        payment: Payment::Paid,
    }
}

pub fn lock_id(number: usize) -> LockId {
    LockId { namespace: NamespaceId::Public, name: LockName::parse(format!("l{number}")).unwrap() }
}

fn account(number: usize) -> AccountId {
    AccountId(Uuid::from_u128(0xacc0 + number as u128))
}

/// All have the same.
fn token() -> TokenEnd {
    TokenEnd::of(Uuid::nil())
}

fn fence_of(fence: u64) -> FencingToken {
    fence.to_string().parse().unwrap()
}
