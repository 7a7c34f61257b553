//! The model: what the scripts do, in Rust, with no store and no script.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use lockable::{
    lock::{Acquired, Fence, Grant, Heartbeaten, Holder, Lease, NotHeld, Payment, RateStanding, Refusal, Released},
    locks::{AcquireRequest, Answer, Claimant, HeartbeatRequest, LockId, ReleaseRequest},
};

use super::HELD_MAX;

/// The rules of the contract, once more and as plainly as possible.
#[derive(Default)]
pub struct Model {
    pub now_us: u64,
    last_fence: u64,
    held: HashMap<LockId, (Claimant, Holder)>,
    full_at_us: u64,
}

impl Model {
    /// A model in which nothing is held.
    pub fn at(now_us: u64) -> Self {
        Self { now_us, ..Self::default() }
    }

    pub fn acquire(&mut self, request: &AcquireRequest) -> Answer<Acquired> {
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

    pub fn heartbeat(&mut self, request: &HeartbeatRequest) -> Answer<Heartbeaten> {
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

    pub fn release(&mut self, request: &ReleaseRequest) -> Answer<Released> {
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
