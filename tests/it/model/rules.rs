//! The model: the rules of the scripts in Rust, without a store or a script.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use lockable::{
    lock::{
        AccountId, AcquireOutcome, Attempt, FencingToken, Grant, HeartbeatOutcome, Held, Holder, Lease, NotHeld,
        RateCharge, RateStatus, Refusal, ReleaseOutcome,
    },
    locks::{
        AcquireProgress, AcquireRequest, Claimant, HeartbeatRequest, LockKey, QueueState, ReleaseRequest, RenewedLease,
        WithRate,
    },
};

use super::{HELD_MAX, WAITING_MAX};

const CLAIM_TIME: Duration = Duration::from_secs(5);
const RESERVATION_TIME: Duration = Duration::from_secs(10);
/// The longest lease that is not journaled.
const SHORT: Lease = Lease::from_secs(60);

/// A second and simple implementation of the rules of locks and queues.
#[derive(Default)]
pub struct Model {
    pub now_us: u64,
    last_fence: u64,
    locks: HashMap<LockKey, Lock>,
    /// The waiting attempts of each account, by the time at which their wait ends.
    waiting: HashMap<AccountId, HashMap<String, Timestamp>>,
    /// The expiry of an account's `waiting`, which each new attempt extends.
    waiting_expires_at: HashMap<AccountId, Timestamp>,
    full_at_us: u64,
}

#[derive(Default)]
struct Lock {
    held: Option<CurrentGrant>,
    queue: VecDeque<Entry>,
    queue_expires_at: Timestamp,
}

struct CurrentGrant {
    claimant: Claimant,
    holder: Holder,
    attempt: String,
    /// Whether the grant was claimed after its hand-over, or needed no claim.
    is_claimed: bool,
    /// The lease that its holder requested last, if any.
    requested: Option<Lease>,
}

struct Entry {
    request: AcquireRequest,
    attempt: String,
    state: State,
}

/// The state of a queue entry.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Its request is open.
    Queued,
    /// It has no open request, and its position is reserved until this time.
    Reserved(Timestamp),
    /// Its owner has cancelled the request.
    Cancelled,
}

impl Entry {
    fn is_of(&self, claimant: &Claimant, attempt: &str) -> bool {
        self.request.claimant == *claimant && (claimant.owner.is_some() || self.attempt == attempt)
    }
}

impl Model {
    /// A model without grants.
    pub fn at(now_us: u64) -> Self {
        Self { now_us, ..Self::default() }
    }

    pub fn acquire(&mut self, request: &AcquireRequest, attempt: Attempt, wait: Duration) -> WithRate<AcquireProgress> {
        let rate = match self.charge(&request.charge) {
            Ok(rate) => rate,
            Err((rate, retry_after)) => {
                let outcome = AcquireProgress::Done(AcquireOutcome::Refused(Refusal::RateLimited { retry_after }));
                return WithRate { outcome, rate: Some(rate) };
            }
        };
        WithRate { outcome: self.acquire_paid(request, &attempt.to_string(), wait), rate }
    }

    fn acquire_paid(&mut self, request: &AcquireRequest, attempt: &str, wait: Duration) -> AcquireProgress {
        let AcquireRequest { lock, claimant, .. } = request;
        // Like the script, skip the queue if the lease is short, the request does not wait, and its
        // rate is already charged.
        let is_plain = wait.is_zero() && request.lease <= SHORT && request.charge == RateCharge::Done;
        let Some(current) = self.current_grant(lock) else {
            if !is_plain {
                self.remove_entry(lock, claimant);
            }
            return self.make_grant(request, attempt, None);
        };
        let is_own = current.claimant == *claimant && claimant.owner.is_some();
        let (fence, is_claimed) = (current.holder.fence, current.is_claimed);
        let held = self.held(lock);
        match is_own {
            true if is_claimed => {
                self.remove_entry(lock, claimant);
                self.regrant(request, fence, "")
            }
            true => self.grant_handed_over(request, attempt, fence),
            false if wait.is_zero() => AcquireProgress::Waiting(held),
            false => match self.enqueue(request, attempt, wait) {
                Ok(()) => AcquireProgress::Waiting(held),
                Err(waiting) => AcquireProgress::Done(AcquireOutcome::Refused(Refusal::TooManyWaiting { waiting })),
            },
        }
    }

    pub fn claim(&mut self, request: &AcquireRequest, attempt: Attempt, is_over: bool) -> AcquireProgress {
        let AcquireRequest { lock, claimant, .. } = request;
        let attempt = attempt.to_string();
        if self.consume_cancellation(lock, claimant, &attempt) {
            return AcquireProgress::Cancelled;
        }
        let mut has_grant = false;
        if let Some(current) = self.current_grant(lock) {
            has_grant = true;
            let (fence, is_own) = (current.holder.fence, current.claimant == *claimant);
            let grant_attempt = current.attempt.clone();
            if is_own && !current.is_claimed && (current.attempt == attempt || claimant.owner.is_some()) {
                self.end_wait(claimant, &attempt);
                return self.grant_handed_over(request, &attempt, fence);
            }
            let is_claimed_before = grant_attempt == attempt;
            if is_own && (is_claimed_before || claimant.owner.is_some()) {
                self.end_wait(claimant, &attempt);
                self.remove_entry(lock, claimant);
                let remaining = self.held(lock).remaining;
                // A longer lease that a later request of the owner received is not shortened.
                if !is_claimed_before && remaining > request.lease.as_duration() {
                    let expires_at = self.now() + remaining;
                    self.lock(lock).held.as_mut().unwrap().attempt.clear();
                    return AcquireProgress::Done(AcquireOutcome::Again(Grant {
                        fence,
                        lease: request.lease,
                        expires_at,
                    }));
                }
                return self.regrant(request, fence, if is_claimed_before { &attempt } else { "" });
            }
        }
        let queue = &self.lock(lock).queue;
        let is_queued = queue.iter().any(|entry| entry.is_of(claimant, &attempt));
        let is_replaced = queue.iter().any(|entry| entry.is_of(claimant, &attempt) && entry.attempt != attempt);
        if is_over {
            self.leave_queue(lock, claimant, &attempt);
        } else {
            self.requeue(lock, claimant, &attempt);
        }
        if !has_grant || !(is_queued || is_over) {
            if !is_queued {
                self.end_wait(claimant, &attempt);
            }
            return AcquireProgress::NotQueued;
        }
        let held = self.held(lock);
        if is_replaced { AcquireProgress::Replaced(held) } else { AcquireProgress::Waiting(held) }
    }

    /// Returns an entry to the queue whose request did not claim the lock in time.
    fn requeue(&mut self, lock: &LockKey, claimant: &Claimant, attempt: &str) {
        let matches_request = |entry: &&mut Entry| {
            entry.is_of(claimant, attempt) && entry.attempt == attempt && entry.state != State::Queued
        };
        let Some(entry) = self.lock(lock).queue.iter_mut().find(matches_request) else { return };
        entry.state = State::Queued;
        let now = self.now();
        let over = self.waiting.get(&claimant.account).and_then(|waiting| waiting.get(attempt));
        let until = over.copied().unwrap_or(now).max(now) + RESERVATION_TIME;
        let lock_state = self.lock(lock);
        lock_state.queue_expires_at = lock_state.queue_expires_at.max(until);
    }

    pub fn revert(&mut self, request: &AcquireRequest, attempt: Attempt) -> bool {
        let AcquireRequest { lock, claimant, .. } = request;
        let attempt = attempt.to_string();
        self.expire();
        let current = self.lock(lock).held.as_ref();
        if current.is_some_and(|held| held.claimant == *claimant && held.attempt == attempt) {
            self.lock(lock).held = None;
            self.leave_queue(lock, claimant, &attempt);
            self.current_grant(lock);
            return true;
        }
        self.leave_queue(lock, claimant, &attempt)
    }

    pub fn poll_queue(&mut self, lock: &LockKey) -> QueueState {
        if self.current_grant(lock).is_none() {
            return QueueState::Free;
        }
        self.expire_reservations(lock);
        let remaining = self.held(lock).remaining;
        let Lock { held, queue, .. } = self.lock(lock);
        let to_claim = held.as_ref().filter(|held| !held.is_claimed).map(|held| held.attempt.clone());
        let waiting = queue.iter().filter(|entry| entry.state == State::Queued).count();
        QueueState::Held { remaining, waiting, to_claim }
    }

    pub fn heartbeat(&mut self, request: &HeartbeatRequest) -> WithRate<HeartbeatOutcome> {
        self.expire();
        let rate = match self.charge(&request.charge) {
            Ok(rate) => rate,
            Err((rate, retry_after)) => {
                return WithRate { outcome: HeartbeatOutcome::RateLimited { retry_after }, rate: Some(rate) };
            }
        };
        let now = self.now();
        let outcome = match self.find(&request.lock, &request.claimant, request.fence) {
            Ok(current) if current.is_claimed => {
                let lease = match request.lease {
                    RenewedLease::For(lease) => *current.requested.insert(lease),
                    RenewedLease::LastAsked { default, max } => current.requested.unwrap_or(default).min(max),
                };
                let expires_at = now + lease.as_duration();
                current.holder.expires_at = expires_at;
                current.attempt = String::new();
                HeartbeatOutcome::Renewed(Grant { fence: current.holder.fence, lease, expires_at })
            }
            Ok(_) => HeartbeatOutcome::Refused(NotHeld::Free),
            Err(reason) => HeartbeatOutcome::Refused(reason),
        };
        WithRate { outcome, rate }
    }

    pub fn release(&mut self, request: &ReleaseRequest) -> WithRate<ReleaseOutcome> {
        let ReleaseRequest { lock, claimant, .. } = request;
        self.expire();
        let rate = match self.charge(&request.charge) {
            Ok(rate) => rate,
            Err((rate, retry_after)) => {
                return WithRate { outcome: ReleaseOutcome::RateLimited { retry_after }, rate: Some(rate) };
            }
        };
        let is_owners = self.lock(lock).held.as_ref().is_some_and(|held| held.claimant == *claimant);
        let outcome = match self.find(lock, claimant, request.fence) {
            Ok(current) if current.is_claimed || claimant.owner.is_some() => {
                let is_waiters = !current.is_claimed;
                if is_waiters {
                    let attempt = current.attempt.clone();
                    self.end_wait(claimant, &attempt);
                }
                if is_waiters && request.fence.is_none() {
                    self.cancel(lock, claimant, true);
                }
                self.lock(lock).held = None;
                self.current_grant(lock);
                ReleaseOutcome::Released
            }
            Ok(_) => ReleaseOutcome::Refused(NotHeld::Free),
            Err(reason) => ReleaseOutcome::Refused(reason),
        };
        if !is_owners && claimant.owner.is_some() && request.fence.is_none() {
            self.cancel(lock, claimant, false);
        }
        WithRate { outcome, rate }
    }

    /// Cancels the queued request of an owner that sends a release.
    fn cancel(&mut self, lock: &LockKey, claimant: &Claimant, is_handed_over: bool) {
        let queue = &mut self.lock(lock).queue;
        let Some(at) = queue.iter().position(|entry| entry.request.claimant == *claimant) else { return };
        let attempt = queue[at].attempt.clone();
        if queue[at].state == State::Queued || is_handed_over {
            queue[at].state = State::Cancelled;
        } else {
            queue.remove(at);
        }
        self.end_wait(claimant, &attempt);
    }

    fn consume_cancellation(&mut self, lock: &LockKey, claimant: &Claimant, attempt: &str) -> bool {
        self.expire();
        let queue = &mut self.lock(lock).queue;
        let matches_request = |entry: &Entry| {
            entry.is_of(claimant, attempt) && entry.attempt == attempt && entry.state == State::Cancelled
        };
        let Some(at) = queue.iter().position(matches_request) else { return false };
        queue.remove(at);
        self.end_wait(claimant, attempt);
        true
    }

    /// Removes an owner's entry.
    fn remove_entry(&mut self, lock: &LockKey, claimant: &Claimant) {
        let queue = &mut self.lock(lock).queue;
        let matches_request = |entry: &Entry| entry.request.claimant == *claimant && claimant.owner.is_some();
        if let Some(at) = queue.iter().position(matches_request) {
            let entry = queue.remove(at).unwrap();
            self.end_wait(claimant, &entry.attempt);
        }
    }

    fn find(
        &mut self,
        lock: &LockKey,
        claimant: &Claimant,
        fence: Option<FencingToken>,
    ) -> Result<&mut CurrentGrant, NotHeld> {
        let current = self.lock(lock).held.as_mut().ok_or(NotHeld::Free)?;
        let matches_request = current.claimant == *claimant && fence.is_none_or(|fence| fence == current.holder.fence);
        if matches_request { Ok(current) } else { Err(NotHeld::HeldByAnother) }
    }

    /// The grant of a lock, after the hand-over of a free lock to the first queued entry.
    fn current_grant(&mut self, lock: &LockKey) -> Option<&CurrentGrant> {
        self.expire();
        let now = self.now();
        while self.lock(lock).held.is_none() {
            let queue = &mut self.lock(lock).queue;
            let at = queue.iter().position(|entry| entry.state == State::Queued)?;
            let (request, attempt) = (queue[at].request.clone(), queue[at].attempt.clone());
            if request.claimant.owner.is_some() {
                queue[at].state = State::Reserved(now + CLAIM_TIME + RESERVATION_TIME);
            } else {
                queue.remove(at);
            }
            let fence = self.next_fence();
            let holder = self.holder(&request, fence, now + CLAIM_TIME);
            let current =
                CurrentGrant { claimant: request.claimant, holder, attempt, is_claimed: false, requested: None };
            self.lock(lock).held = Some(current);
        }
        self.lock(lock).held.as_ref()
    }

    fn make_grant(&mut self, request: &AcquireRequest, attempt: &str, fence: Option<FencingToken>) -> AcquireProgress {
        let account = request.claimant.account;
        let of_account =
            |lock: &&Lock| lock.held.as_ref().is_some_and(|held| held.is_claimed && held.claimant.account == account);
        let held = self.locks.values().filter(of_account).count() as u64;
        if held >= HELD_MAX {
            return AcquireProgress::Done(AcquireOutcome::Refused(Refusal::OverQuota { held }));
        }
        let fence = fence.unwrap_or_else(|| self.next_fence());
        let expires_at = self.now() + request.lease.as_duration();
        let holder = self.holder(request, fence, expires_at);
        let claimant = request.claimant.clone();
        let current = CurrentGrant {
            claimant,
            holder,
            attempt: attempt.to_owned(),
            is_claimed: true,
            requested: request.is_lease_asked.then_some(request.lease),
        };
        self.lock(&request.lock).held = Some(current);
        AcquireProgress::Done(AcquireOutcome::Granted(Grant { fence, lease: request.lease, expires_at }))
    }

    /// Claims a lock after its hand-over. At the account's quota, the lock goes to the next entry.
    fn grant_handed_over(&mut self, request: &AcquireRequest, attempt: &str, fence: FencingToken) -> AcquireProgress {
        let AcquireRequest { lock, claimant, .. } = request;
        let before = self.lock(lock).held.as_ref().unwrap().attempt.clone();
        self.end_wait(claimant, &before);
        self.remove_entry(lock, claimant);
        let progress = self.make_grant(request, attempt, Some(fence));
        if matches!(progress, AcquireProgress::Done(AcquireOutcome::Refused(_))) {
            self.lock(lock).held = None;
            self.current_grant(lock);
        }
        progress
    }

    fn regrant(&mut self, request: &AcquireRequest, fence: FencingToken, attempt: &str) -> AcquireProgress {
        let expires_at = self.now() + request.lease.as_duration();
        let current = self.lock(&request.lock).held.as_mut().unwrap();
        current.holder.expires_at = expires_at;
        current.requested = request.is_lease_asked.then_some(request.lease).or(current.requested);
        attempt.clone_into(&mut current.attempt);
        let grant = Grant { fence, lease: request.lease, expires_at };
        AcquireProgress::Done(if attempt.is_empty() {
            AcquireOutcome::Again(grant)
        } else {
            AcquireOutcome::Granted(grant)
        })
    }

    fn enqueue(&mut self, request: &AcquireRequest, attempt: &str, wait: Duration) -> Result<(), u64> {
        let AcquireRequest { lock, claimant, .. } = request;
        let now = self.now();
        self.expire_reservations(lock);
        let mut index = self.lock(lock).queue.iter().position(|entry| entry.is_of(claimant, attempt));
        let mut outdated = None;
        if let Some(at) = index {
            let Entry { attempt: before, state, .. } = &self.lock(lock).queue[at];
            let (before, state) = (before.clone(), *state);
            self.end_wait(claimant, &before);
            if state == State::Cancelled || matches!(state, State::Reserved(until) if until <= now) {
                outdated = index.take();
            }
        }
        let waiting = self.waiting.entry(claimant.account).or_default();
        // Expired attempts are removed at the limit only, as in the script: an expired attempt
        // can become a reservation, which counts.
        if waiting.len() as u64 >= WAITING_MAX {
            waiting.retain(|_, over| *over >= now);
            if waiting.len() as u64 >= WAITING_MAX {
                return Err(waiting.len() as u64);
            }
        }
        let expires_at = self.waiting_expires_at.entry(claimant.account).or_default();
        if waiting.is_empty() {
            *expires_at = Timestamp::default();
        }
        *expires_at = (*expires_at).max(now + wait + RESERVATION_TIME + RESERVATION_TIME);
        waiting.insert(attempt.to_owned(), now + wait + RESERVATION_TIME);
        let entry = Entry { request: request.clone(), attempt: attempt.to_owned(), state: State::Queued };
        let lock_state = self.lock(lock);
        if let Some(at) = outdated {
            lock_state.queue.remove(at);
        }
        if lock_state.queue.is_empty() {
            lock_state.queue_expires_at = Timestamp::default();
        }
        match index {
            Some(index) => lock_state.queue[index] = entry,
            None => lock_state.queue.push_back(entry),
        }
        lock_state.queue_expires_at = lock_state.queue_expires_at.max(now + wait + RESERVATION_TIME + RESERVATION_TIME);
        Ok(())
    }

    fn leave_queue(&mut self, lock: &LockKey, claimant: &Claimant, attempt: &str) -> bool {
        let until = self.now() + RESERVATION_TIME;
        let queue = &mut self.lock(lock).queue;
        let matches_request = |entry: &Entry| entry.is_of(claimant, attempt) && entry.attempt == attempt;
        let Some(at) = queue.iter().position(matches_request) else {
            self.end_wait(claimant, attempt);
            return false;
        };
        if claimant.owner.is_some() && queue[at].state != State::Cancelled {
            queue[at].state = State::Reserved(until);
            let is_open = queue.iter().any(|entry| entry.state == State::Queued);
            let reserved = queue.iter().filter_map(|entry| match entry.state {
                State::Reserved(until) => Some(until),
                State::Queued | State::Cancelled => None,
            });
            // Without an open request, the entries expire with the last reservation.
            if let (false, Some(last)) = (is_open, reserved.max()) {
                let until = last.max(self.now()) + Duration::from_secs(1);
                self.lock(lock).queue_expires_at = until;
            }
            if let Some(over) = self.waiting.entry(claimant.account).or_default().get_mut(attempt) {
                *over = until;
            }
            return true;
        }
        let entry = queue.remove(at).unwrap();
        self.end_wait(claimant, attempt);
        entry.state != State::Cancelled
    }

    /// Removes expired reservations.
    fn expire_reservations(&mut self, lock: &LockKey) {
        let now = self.now();
        self.lock(lock).queue.retain(|entry| !matches!(entry.state, State::Reserved(until) if until <= now));
    }

    fn end_wait(&mut self, claimant: &Claimant, attempt: &str) {
        self.waiting.entry(claimant.account).or_default().remove(attempt);
    }

    fn lock(&mut self, lock: &LockKey) -> &mut Lock {
        self.locks.entry(lock.clone()).or_default()
    }

    fn held(&self, lock: &LockKey) -> Held {
        let holder = self.locks[lock].held.as_ref().unwrap().holder.clone();
        let remaining = Duration::try_from(holder.expires_at.duration_since(self.now())).unwrap();
        Held { holder, remaining }
    }

    fn holder(&self, request: &AcquireRequest, fence: FencingToken, expires_at: Timestamp) -> Holder {
        Holder {
            account: request.claimant.account,
            owner: request.claimant.owner.clone(),
            fence,
            label: request.label.clone(),
            note: request.note.clone(),
            info: request.info.clone(),
            acquired_at: self.now(),
            expires_at,
        }
    }

    fn next_fence(&mut self) -> FencingToken {
        self.last_fence = self.now_us.max(self.last_fence + 1);
        self.last_fence.to_string().parse().unwrap()
    }

    /// A leaking bucket: it drains one request each interval, and holds a burst.
    fn charge(&mut self, charge: &RateCharge) -> Result<Option<RateStatus>, (RateStatus, Duration)> {
        let RateCharge::InScript(due) = charge else { return Ok(None) };
        let interval_us = 1_000_000 / u64::from(due.rate.per_second);
        let backlog_us = self.full_at_us.saturating_sub(self.now_us);
        let status = |backlog_us: u64| RateStatus {
            rate: due.rate,
            remaining: due.rate.burst - backlog_us.div_ceil(interval_us) as u32,
            reset: Duration::from_micros(backlog_us),
        };
        let free_us = interval_us * u64::from(due.rate.burst) - backlog_us;
        if free_us < interval_us {
            return Err((status(backlog_us), Duration::from_micros(interval_us - free_us)));
        }
        self.full_at_us = self.now_us + backlog_us + interval_us;
        Ok(Some(status(backlog_us + interval_us)))
    }

    fn expire(&mut self) {
        let now = self.now();
        for lock in self.locks.values_mut() {
            if lock.held.as_ref().is_some_and(|held| held.holder.expires_at < now) {
                lock.held = None;
            }
            // No request has extended the queue's lifetime.
            if lock.queue_expires_at < now {
                lock.queue.clear();
            }
            if lock.queue.is_empty() {
                lock.queue_expires_at = Timestamp::default();
            }
        }
        for (account, waiting) in &mut self.waiting {
            if self.waiting_expires_at.get(account).is_some_and(|until| *until < now) {
                waiting.clear();
            }
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond((self.now_us / 1000) as i64).unwrap()
    }
}
