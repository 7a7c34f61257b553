//! The model: what the scripts do, in Rust, with no store and no script.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use lockable::{
    lock::{
        AccountId, AcquireOutcome, Attempt, FencingToken, Grant, HeartbeatOutcome, Held, Holder, Lease, NotHeld,
        Payment, RateStanding, Refusal, ReleaseOutcome,
    },
    locks::{AcquireRequest, Answer, Claimant, HeartbeatRequest, LockId, Look, ReleaseRequest, RenewedLease, Turn},
};

use super::{HELD_MAX, WAITING_MAX};

const COLLECT: Duration = Duration::from_secs(5);
const KEEP: Duration = Duration::from_secs(10);
/// The longest lease that is not written down.
const SHORT: Lease = Lease::from_secs(60);

/// The rules of the contract, once more and as plainly as possible.
#[derive(Default)]
pub struct Model {
    pub now_us: u64,
    last_fence: u64,
    locks: HashMap<LockId, Lock>,
    /// The attempts with which each account waits, and when these are over.
    waiting: HashMap<AccountId, HashMap<String, Timestamp>>,
    /// When what is known of those who wait is forgotten, as nobody has joined them.
    waiting_kept_until: HashMap<AccountId, Timestamp>,
    full_at_us: u64,
}

#[derive(Default)]
struct Lock {
    held: Option<Holding>,
    line: VecDeque<Ticket>,
    line_kept_until: Timestamp,
}

struct Holding {
    claimant: Claimant,
    holder: Holder,
    attempt: String,
    /// It has been collected, or was never waited for.
    is_collected: bool,
    /// The lease that its holder asked for last, if it did.
    asked: Option<Lease>,
}

struct Ticket {
    request: AcquireRequest,
    attempt: String,
    state: State,
}

/// How a ticket stands.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// A request is open.
    Waits,
    /// None is, and the position is reserved until then.
    Reserved(Timestamp),
    /// Its owner has cancelled the request.
    Cancelled,
}

impl Ticket {
    fn is_of(&self, claimant: &Claimant, attempt: &str) -> bool {
        self.request.claimant == *claimant && (claimant.owner.is_some() || self.attempt == attempt)
    }
}

impl Model {
    /// A model in which nothing is held.
    pub fn at(now_us: u64) -> Self {
        Self { now_us, ..Self::default() }
    }

    pub fn ask(&mut self, request: &AcquireRequest, attempt: Attempt, wait: Duration) -> Answer<Turn> {
        let standing = match self.charge(&request.payment) {
            Ok(standing) => standing,
            Err((standing, retry_after)) => {
                let outcome = Turn::Over(AcquireOutcome::Refused(Refusal::RateLimited { retry_after }));
                return Answer { outcome, standing: Some(standing) };
            }
        };
        Answer { outcome: self.ask_paid(request, &attempt.to_string(), wait), standing }
    }

    fn ask_paid(&mut self, request: &AcquireRequest, attempt: &str, wait: Duration) -> Turn {
        let AcquireRequest { lock, claimant, .. } = request;
        // What asks for no more than the lock is not looked for in the queue.
        let is_plain = wait.is_zero() && request.lease <= SHORT && request.payment == Payment::Paid;
        let Some(holding) = self.settled(lock) else {
            if !is_plain {
                self.drop_ticket(lock, claimant);
            }
            return self.hold(request, attempt, None);
        };
        let is_own = holding.claimant == *claimant && claimant.owner.is_some();
        let (fence, is_collected) = (holding.holder.fence, holding.is_collected);
        let held = self.held(lock);
        match is_own {
            true if is_collected => {
                self.drop_ticket(lock, claimant);
                self.hold_on(request, fence, "")
            }
            true => self.hold_handed_over(request, attempt, fence),
            false if wait.is_zero() => Turn::Waiting(held),
            false => match self.stand_in_line(request, attempt, wait) {
                Ok(()) => Turn::Waiting(held),
                Err(waiting) => Turn::Over(AcquireOutcome::Refused(Refusal::TooManyWaiting { waiting })),
            },
        }
    }

    pub fn collect(&mut self, request: &AcquireRequest, attempt: Attempt, is_over: bool) -> Turn {
        let AcquireRequest { lock, claimant, .. } = request;
        let attempt = attempt.to_string();
        if self.is_cancelled(lock, claimant, &attempt) {
            return Turn::Cancelled;
        }
        let mut is_held = false;
        if let Some(holding) = self.settled(lock) {
            is_held = true;
            let (fence, is_own) = (holding.holder.fence, holding.claimant == *claimant);
            let holding_attempt = holding.attempt.clone();
            if is_own && !holding.is_collected && (holding.attempt == attempt || claimant.owner.is_some()) {
                self.stop_waiting(claimant, &attempt);
                return self.hold_handed_over(request, &attempt, fence);
            }
            let is_collected_before = holding_attempt == attempt;
            if is_own && (is_collected_before || claimant.owner.is_some()) {
                self.stop_waiting(claimant, &attempt);
                self.drop_ticket(lock, claimant);
                let rest = self.held(lock).rest;
                // The lease that the owner got by a later request is not shortened.
                if !is_collected_before && rest > request.lease.as_duration() {
                    let expires_at = self.now() + rest;
                    self.lock(lock).held.as_mut().unwrap().attempt.clear();
                    return Turn::Over(AcquireOutcome::Again(Grant { fence, lease: request.lease, expires_at }));
                }
                return self.hold_on(request, fence, if is_collected_before { &attempt } else { "" });
            }
        }
        let line = &self.lock(lock).line;
        let stands = line.iter().any(|ticket| ticket.is_of(claimant, &attempt));
        let is_replaced = line.iter().any(|ticket| ticket.is_of(claimant, &attempt) && ticket.attempt != attempt);
        if is_over {
            self.leave(lock, claimant, &attempt);
        } else {
            self.stand_again(lock, claimant, &attempt);
        }
        if !is_held || !(stands || is_over) {
            if !stands {
                self.stop_waiting(claimant, &attempt);
            }
            return Turn::Gone;
        }
        let held = self.held(lock);
        if is_replaced { Turn::Replaced(held) } else { Turn::Waiting(held) }
    }

    /// Puts a ticket back that was handed the lock and did not collect it in time.
    fn stand_again(&mut self, lock: &LockId, claimant: &Claimant, attempt: &str) {
        let is_meant = |ticket: &&mut Ticket| {
            ticket.is_of(claimant, attempt) && ticket.attempt == attempt && ticket.state != State::Waits
        };
        let Some(ticket) = self.lock(lock).line.iter_mut().find(is_meant) else { return };
        ticket.state = State::Waits;
        let now = self.now();
        let over = self.waiting.get(&claimant.account).and_then(|waiting| waiting.get(attempt));
        let until = over.copied().unwrap_or(now).max(now) + KEEP;
        let entry = self.lock(lock);
        entry.line_kept_until = entry.line_kept_until.max(until);
    }

    pub fn withdraw(&mut self, request: &AcquireRequest, attempt: Attempt) -> bool {
        let AcquireRequest { lock, claimant, .. } = request;
        let attempt = attempt.to_string();
        self.forget_lapsed();
        let holding = self.lock(lock).held.as_ref();
        if holding.is_some_and(|held| held.claimant == *claimant && held.attempt == attempt) {
            self.lock(lock).held = None;
            self.leave(lock, claimant, &attempt);
            self.settled(lock);
            return true;
        }
        self.leave(lock, claimant, &attempt)
    }

    pub fn look(&mut self, lock: &LockId) -> Look {
        if self.settled(lock).is_none() {
            return Look::Free;
        }
        self.sweep(lock);
        let rest = self.held(lock).rest;
        let Lock { held, line, .. } = self.lock(lock);
        let to_collect = held.as_ref().filter(|held| !held.is_collected).map(|held| held.attempt.clone());
        let waiting = line.iter().filter(|ticket| ticket.state == State::Waits).count();
        Look::Held { rest, waiting, to_collect }
    }

    pub fn heartbeat(&mut self, request: &HeartbeatRequest) -> Answer<HeartbeatOutcome> {
        self.forget_lapsed();
        let standing = match self.charge(&request.payment) {
            Ok(standing) => standing,
            Err((standing, retry_after)) => {
                return Answer { outcome: HeartbeatOutcome::RateLimited { retry_after }, standing: Some(standing) };
            }
        };
        let now = self.now();
        let outcome = match self.find(&request.lock, &request.claimant, request.fence) {
            Ok(holding) if holding.is_collected => {
                let lease = match request.lease {
                    RenewedLease::For(lease) => *holding.asked.insert(lease),
                    RenewedLease::LastAsked { default, max } => holding.asked.unwrap_or(default).min(max),
                };
                let expires_at = now + lease.as_duration();
                holding.holder.expires_at = expires_at;
                holding.attempt = String::new();
                HeartbeatOutcome::Renewed(Grant { fence: holding.holder.fence, lease, expires_at })
            }
            Ok(_) => HeartbeatOutcome::Refused(NotHeld::Free),
            Err(reason) => HeartbeatOutcome::Refused(reason),
        };
        Answer { outcome, standing }
    }

    pub fn release(&mut self, request: &ReleaseRequest) -> Answer<ReleaseOutcome> {
        let ReleaseRequest { lock, claimant, .. } = request;
        self.forget_lapsed();
        let standing = match self.charge(&request.payment) {
            Ok(standing) => standing,
            Err((standing, retry_after)) => {
                return Answer { outcome: ReleaseOutcome::RateLimited { retry_after }, standing: Some(standing) };
            }
        };
        let is_owners = self.lock(lock).held.as_ref().is_some_and(|held| held.claimant == *claimant);
        let outcome = match self.find(lock, claimant, request.fence) {
            Ok(holding) if holding.is_collected || claimant.owner.is_some() => {
                let is_waiters = !holding.is_collected;
                if is_waiters {
                    let attempt = holding.attempt.clone();
                    self.stop_waiting(claimant, &attempt);
                }
                if is_waiters && request.fence.is_none() {
                    self.cancel(lock, claimant, true);
                }
                self.lock(lock).held = None;
                self.settled(lock);
                ReleaseOutcome::Released
            }
            Ok(_) => ReleaseOutcome::Refused(NotHeld::Free),
            Err(reason) => ReleaseOutcome::Refused(reason),
        };
        if !is_owners && claimant.owner.is_some() && request.fence.is_none() {
            self.cancel(lock, claimant, false);
        }
        Answer { outcome, standing }
    }

    /// An owner that waits and releases does not want the lock any more.
    fn cancel(&mut self, lock: &LockId, claimant: &Claimant, is_handed_over: bool) {
        let line = &mut self.lock(lock).line;
        let Some(at) = line.iter().position(|ticket| ticket.request.claimant == *claimant) else { return };
        let attempt = line[at].attempt.clone();
        if line[at].state == State::Waits || is_handed_over {
            line[at].state = State::Cancelled;
        } else {
            line.remove(at);
        }
        self.stop_waiting(claimant, &attempt);
    }

    fn is_cancelled(&mut self, lock: &LockId, claimant: &Claimant, attempt: &str) -> bool {
        self.forget_lapsed();
        let line = &mut self.lock(lock).line;
        let is_meant = |ticket: &Ticket| {
            ticket.is_of(claimant, attempt) && ticket.attempt == attempt && ticket.state == State::Cancelled
        };
        let Some(at) = line.iter().position(is_meant) else { return false };
        line.remove(at);
        self.stop_waiting(claimant, attempt);
        true
    }

    /// Forgets that an owner waits.
    fn drop_ticket(&mut self, lock: &LockId, claimant: &Claimant) {
        let line = &mut self.lock(lock).line;
        let is_meant = |ticket: &Ticket| ticket.request.claimant == *claimant && claimant.owner.is_some();
        if let Some(at) = line.iter().position(is_meant) {
            let ticket = line.remove(at).unwrap();
            self.stop_waiting(claimant, &ticket.attempt);
        }
    }

    fn find(
        &mut self,
        lock: &LockId,
        claimant: &Claimant,
        fence: Option<FencingToken>,
    ) -> Result<&mut Holding, NotHeld> {
        let holding = self.lock(lock).held.as_mut().ok_or(NotHeld::Free)?;
        let is_meant = holding.claimant == *claimant && fence.is_none_or(|fence| fence == holding.holder.fence);
        if is_meant { Ok(holding) } else { Err(NotHeld::HeldByAnother) }
    }

    /// The holding of a lock, which the first in line has if nobody else.
    fn settled(&mut self, lock: &LockId) -> Option<&Holding> {
        self.forget_lapsed();
        let now = self.now();
        while self.lock(lock).held.is_none() {
            let line = &mut self.lock(lock).line;
            let at = line.iter().position(|ticket| ticket.state == State::Waits)?;
            let (request, attempt) = (line[at].request.clone(), line[at].attempt.clone());
            if request.claimant.owner.is_some() {
                line[at].state = State::Reserved(now + COLLECT + KEEP);
            } else {
                line.remove(at);
            }
            let fence = self.next_fence();
            let holder = self.holder(&request, fence, now + COLLECT);
            let holding = Holding { claimant: request.claimant, holder, attempt, is_collected: false, asked: None };
            self.lock(lock).held = Some(holding);
        }
        self.lock(lock).held.as_ref()
    }

    fn hold(&mut self, request: &AcquireRequest, attempt: &str, fence: Option<FencingToken>) -> Turn {
        let account = request.claimant.account;
        let of_account =
            |lock: &&Lock| lock.held.as_ref().is_some_and(|held| held.is_collected && held.claimant.account == account);
        let held = self.locks.values().filter(of_account).count() as u64;
        if held >= HELD_MAX {
            return Turn::Over(AcquireOutcome::Refused(Refusal::OverQuota { held }));
        }
        let fence = fence.unwrap_or_else(|| self.next_fence());
        let expires_at = self.now() + request.lease.as_duration();
        let holder = self.holder(request, fence, expires_at);
        let claimant = request.claimant.clone();
        let holding = Holding {
            claimant,
            holder,
            attempt: attempt.to_owned(),
            is_collected: true,
            asked: request.is_lease_asked.then_some(request.lease),
        };
        self.lock(&request.lock).held = Some(holding);
        Turn::Over(AcquireOutcome::Granted(Grant { fence, lease: request.lease, expires_at }))
    }

    /// Who holds too many locks lets the next one have it.
    fn hold_handed_over(&mut self, request: &AcquireRequest, attempt: &str, fence: FencingToken) -> Turn {
        let AcquireRequest { lock, claimant, .. } = request;
        let before = self.lock(lock).held.as_ref().unwrap().attempt.clone();
        self.stop_waiting(claimant, &before);
        self.drop_ticket(lock, claimant);
        let turn = self.hold(request, attempt, Some(fence));
        if matches!(turn, Turn::Over(AcquireOutcome::Refused(_))) {
            self.lock(lock).held = None;
            self.settled(lock);
        }
        turn
    }

    fn hold_on(&mut self, request: &AcquireRequest, fence: FencingToken, attempt: &str) -> Turn {
        let expires_at = self.now() + request.lease.as_duration();
        let holding = self.lock(&request.lock).held.as_mut().unwrap();
        holding.holder.expires_at = expires_at;
        holding.asked = request.is_lease_asked.then_some(request.lease).or(holding.asked);
        attempt.clone_into(&mut holding.attempt);
        let grant = Grant { fence, lease: request.lease, expires_at };
        Turn::Over(if attempt.is_empty() { AcquireOutcome::Again(grant) } else { AcquireOutcome::Granted(grant) })
    }

    fn stand_in_line(&mut self, request: &AcquireRequest, attempt: &str, wait: Duration) -> Result<(), u64> {
        let AcquireRequest { lock, claimant, .. } = request;
        let now = self.now();
        self.sweep(lock);
        let mut place = self.lock(lock).line.iter().position(|ticket| ticket.is_of(claimant, attempt));
        let mut lost = None;
        if let Some(at) = place {
            let Ticket { attempt: before, state, .. } = &self.lock(lock).line[at];
            let (before, state) = (before.clone(), *state);
            self.stop_waiting(claimant, &before);
            if state == State::Cancelled || matches!(state, State::Reserved(until) if until <= now) {
                lost = place.take();
            }
        }
        let waiting = self.waiting.entry(claimant.account).or_default();
        // Only then, so that one that has lapsed can become a reservation that counts.
        if waiting.len() as u64 >= WAITING_MAX {
            waiting.retain(|_, over| *over >= now);
            if waiting.len() as u64 >= WAITING_MAX {
                return Err(waiting.len() as u64);
            }
        }
        let kept_until = self.waiting_kept_until.entry(claimant.account).or_default();
        if waiting.is_empty() {
            *kept_until = Timestamp::default();
        }
        *kept_until = (*kept_until).max(now + wait + KEEP + KEEP);
        waiting.insert(attempt.to_owned(), now + wait + KEEP);
        let ticket = Ticket { request: request.clone(), attempt: attempt.to_owned(), state: State::Waits };
        let entry = self.lock(lock);
        if let Some(at) = lost {
            entry.line.remove(at);
        }
        if entry.line.is_empty() {
            entry.line_kept_until = Timestamp::default();
        }
        match place {
            Some(place) => entry.line[place] = ticket,
            None => entry.line.push_back(ticket),
        }
        entry.line_kept_until = entry.line_kept_until.max(now + wait + KEEP + KEEP);
        Ok(())
    }

    fn leave(&mut self, lock: &LockId, claimant: &Claimant, attempt: &str) -> bool {
        let until = self.now() + KEEP;
        let line = &mut self.lock(lock).line;
        let is_meant = |ticket: &Ticket| ticket.is_of(claimant, attempt) && ticket.attempt == attempt;
        let Some(at) = line.iter().position(is_meant) else {
            self.stop_waiting(claimant, attempt);
            return false;
        };
        if claimant.owner.is_some() && line[at].state != State::Cancelled {
            line[at].state = State::Reserved(until);
            let is_open = line.iter().any(|ticket| ticket.state == State::Waits);
            let reserved = line.iter().filter_map(|ticket| match ticket.state {
                State::Reserved(until) => Some(until),
                State::Waits | State::Cancelled => None,
            });
            // Nobody sweeps them when no request is open: they lapse by themselves.
            if let (false, Some(last)) = (is_open, reserved.max()) {
                let until = last.max(self.now()) + Duration::from_secs(1);
                self.lock(lock).line_kept_until = until;
            }
            if let Some(over) = self.waiting.entry(claimant.account).or_default().get_mut(attempt) {
                *over = until;
            }
            return true;
        }
        let ticket = line.remove(at).unwrap();
        self.stop_waiting(claimant, attempt);
        ticket.state != State::Cancelled
    }

    /// Drops places that nobody has asked for in time.
    fn sweep(&mut self, lock: &LockId) {
        let now = self.now();
        self.lock(lock).line.retain(|ticket| !matches!(ticket.state, State::Reserved(until) if until <= now));
    }

    fn stop_waiting(&mut self, claimant: &Claimant, attempt: &str) {
        self.waiting.entry(claimant.account).or_default().remove(attempt);
    }

    fn lock(&mut self, lock: &LockId) -> &mut Lock {
        self.locks.entry(lock.clone()).or_default()
    }

    fn held(&self, lock: &LockId) -> Held {
        let holder = self.locks[lock].held.as_ref().unwrap().holder.clone();
        let rest = Duration::try_from(holder.expires_at.duration_since(self.now())).unwrap();
        Held { holder, rest }
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
        for lock in self.locks.values_mut() {
            if lock.held.as_ref().is_some_and(|held| held.holder.expires_at < now) {
                lock.held = None;
            }
            // Nobody asks for that long.
            if lock.line_kept_until < now {
                lock.line.clear();
            }
            if lock.line.is_empty() {
                lock.line_kept_until = Timestamp::default();
            }
        }
        for (account, waiting) in &mut self.waiting {
            if self.waiting_kept_until.get(account).is_some_and(|until| *until < now) {
                waiting.clear();
            }
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond((self.now_us / 1000) as i64).unwrap()
    }
}
