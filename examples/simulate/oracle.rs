//! The oracle: records every request and answer of the clients, with the time of a correct clock,
//! and checks the guarantees of docs/safety.md with each answer. It also receives the faults with
//! effects that docs/safety.md tolerates. It does not read the state of servers or store.
//! Comments in quotation marks are sentences of docs/safety.md.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use super::{history::History, journal::Database, world::World};

/// "clock jumps that are not detected: up to 1 s ...: leases expire early".
const UNNOTICED_JUMP_MS: u64 = 1050;
/// "a server that starts before the others have detected a clock jump: 1 s, or as long as all the
/// others are paused or cannot reach Redis".
const NO_START_NEAR_JUMP_MS: u64 = 1600;
/// "pauses of a server that are not detected: up to 1 s: a release or heartbeat can be executed up
/// to 1.5 s after it was sent". An unanswered request counts as pending for this time.
const CARRIED_OUT_MS: u64 = 2000;
/// "5 s later, any server: `ended` is read". A server skips an end that the server of the grant may
/// still be recording, until it finds it again: two rounds, and their duration.
const END_RECORDED_MS: u64 = 16_000;
/// The time in which a server that knows of an end sends it to the journal.
const END_SENT_MS: u64 = 50;
/// "an answer: 500 ms for each script; 2 s for SQL": two scripts, the journal and a script to
/// shorten a lease, and the delay of messages. The simulator does not look up tokens.
pub const ANSWER_MS: u64 = 3600;

/// The duration of a recovery. Meanwhile an acquire that is refused, as another holder's grant is in
/// the store, does not prove that the requester has lost the lock: its grant may be restored.
const RECOVERY_MS: u64 = 16_000;
/// "Overlapping acquires of one owner. If all of them are answered with 503, the lock may stay held
/// until the lease expires": after a repeated acquire, no attempt reverts the grant. A repeated
/// acquire can also overlap with the revert of the former one.
const REPEATED_MS: u64 = 5000;

pub struct Oracle {
    world: Arc<World>,
    database: Arc<Database>,
    /// The longest lease that is not journaled.
    short_ms: u64,
    lock_keys: Vec<String>,
    /// Whether each holder has an owner.
    owned: Vec<bool>,
    /// See [`History::is_reliable`].
    is_reliable: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    holders: BTreeMap<(usize, usize), HolderState>,
    /// The largest fence of each lock that a client has received.
    highest_fence: BTreeMap<usize, u64>,
    ended: BTreeMap<(usize, u64), GrantEnd>,
    /// The clock's jumps forward: time and size.
    jumps: Vec<(u64, u64)>,
    losses: Vec<u64>,
    /// The time of the last clock jump, in either direction.
    jumped_at: Option<u64>,
    /// The time until which some server may not detect a clock jump.
    clock_unreadable_until: u64,
    /// Whether the store was restarted, with or without its data.
    has_restarted: bool,
    /// The time of the last start of a server.
    started_at: u64,
    /// The sum of all jumps back, by which leases expire late.
    back_ms: u64,
    paused_ms: u64,
    /// The times in which some server was killed or paused, and may not have sent an end.
    unsent_ends: Vec<(u64, u64)>,
    sql_unavailable_until: u64,
    /// The time of the last kill of a server, which loses the ends that it has not recorded.
    killed_at: u64,
    slowest_ms: u64,
    violation: Option<String>,
}

#[derive(Default)]
struct HolderState {
    fence: Option<u64>,
    /// All fences that it has received.
    fences: Vec<u64>,
    released: Vec<u64>,
    /// The time at which it received `fence`.
    last_grant_at: u64,
    /// The time at which it sent the last request that was answered with `fence`.
    confirmed_at: u64,
    /// The time until which it may rely on the lock: no other holder may have it before.
    until: u64,
    /// The same, by the holder's knowledge: the holder of a broken grant is not notified.
    believes_until: u64,
    /// An acquire got no answer, or 503: it may still hold the lock.
    is_uncertain: bool,
    /// The time until which its lease must last, except after tolerated faults.
    guaranteed_until: u64,
    /// The same, by the grant's journal row.
    journaled_until: u64,
    sent: Vec<SentRequest>,
    /// The time until which a grant may exist whose end was lost.
    may_be_restored_until: u64,
}

struct SentRequest {
    id: u64,
    at: u64,
    server: usize,
    kind: RequestKind,
    /// The time after which it is certainly not executed.
    final_at: Option<u64>,
    is_answered: bool,
    /// Whether it certainly had no effect.
    has_no_effect: bool,
    /// The largest fence of the lock that a client had received when the request was sent.
    highest_fence: u64,
    /// The time until which a grant that it has made or renewed may exist.
    may_hold_until: u64,
    /// The same, as known when the request was sent: later answers do not shorten it.
    expires_by: u64,
    /// The server that reverts the grant because the answer was lost.
    reverted_by: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RequestKind {
    Acquire { lease_ms: u64, wait_ms: u64 },
    Heartbeat { lease_ms: u64, fence: Option<u64> },
    Release { fence: Option<u64> },
    Break { fence: u64 },
}

/// A request with its answer.
struct AnsweredRequest {
    /// The lock and the holder.
    key: (usize, usize),
    now: u64,
    at: u64,
    kind: RequestKind,
    /// The largest fence that a client had received when the request was sent.
    highest_fence: u64,
    /// The holder's other requests that were pending meanwhile, with the time of sending.
    overlapping: Vec<(u64, RequestKind)>,
    /// Whether the grant may have ended meanwhile.
    may_have_ended: bool,
}

struct GrantEnd {
    holder: usize,
    at: u64,
    /// The time at which its lease would have expired.
    until: u64,
    is_excused: bool,
    /// Whether the server that answered knows which grant has ended, and sends its end to the journal.
    is_known: bool,
    /// Whether the store has lost the end before the journal recorded it.
    is_lost: bool,
}

#[derive(Clone, Copy)]
pub enum Loss {
    Everything,
    /// All writes since this time.
    Since(u64),
}

#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    Granted {
        fence: u64,
        lease_ms: u64,
    },
    /// The requester does not hold the lock.
    Refused,
    /// The same answer to a release, as another holder has the lock.
    HeldByAnother,
    Released,
    Broken,
    /// Rejected before it had any effect.
    NoEffect,
    /// 503: the request is not executed after this answer.
    Unavailable,
    /// The client has closed its connection.
    HungUp,
    /// The connection was lost without an answer.
    NoAnswer,
}

impl Oracle {
    pub fn new(world: Arc<World>, database: Arc<Database>, history: &History, lock_keys: Vec<String>) -> Arc<Self> {
        let owned = history.holders.iter().map(|holder| holder.has_owner).collect();
        let is_reliable = history.is_reliable();
        Arc::new(Self {
            world,
            database,
            short_ms: history.short_ms,
            lock_keys,
            owned,
            is_reliable,
            state: Mutex::default(),
        })
    }

    pub fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    pub fn report_violation(&self, what: String) {
        self.world.note("violation", || format!("!!! {what}"));
        self.state().violation.get_or_insert(what);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The duration of the slowest answer, without the pauses of servers.
    pub fn slowest_ms(&self) -> u64 {
        self.state().slowest_ms
    }

    pub fn fence_of(&self, lock: usize, holder: usize) -> Option<u64> {
        self.state().holders.get(&(lock, holder))?.fence
    }

    /// The holder that relies on a lock, with its fence.
    pub fn holder_of(&self, lock: usize) -> Option<(usize, u64)> {
        let (state, now) = (self.state(), self.world.now_ms());
        let relies = |((of, holder), holder_state): (&(usize, usize), &HolderState)| {
            (*of == lock && holder_state.until > now).then_some((*holder, holder_state.fence?))
        };
        state.holders.iter().find_map(relies)
    }

    pub fn relies(&self, lock: usize, holder: usize) -> bool {
        self.state().holders.get(&(lock, holder)).is_some_and(|holder_state| holder_state.until > self.world.now_ms())
    }

    /// Whether the holder believes that it may hold the lock, and sends heartbeats.
    pub fn believes_it_holds(&self, lock: usize, holder: usize) -> bool {
        let now = self.world.now_ms();
        let believes = |holder_state: &HolderState| {
            holder_state.believes_until > now || holder_state.is_uncertain && self.owned[holder]
        };
        self.state().holders.get(&(lock, holder)).is_some_and(believes)
    }

    /// Whether the holder may have a grant, even without its knowledge.
    pub fn may_hold(&self, lock: usize, holder: usize) -> bool {
        self.state()
            .holders
            .get(&(lock, holder))
            .is_some_and(|holder_state| holder_state.may_hold_until() > self.world.now_ms())
    }

    /// "Do not use an owner for a new grant while its release is unanswered."
    pub fn is_releasing(&self, lock: usize, holder: usize) -> bool {
        let (state, now) = (self.state(), self.world.now_ms());
        let releases = |sent: &SentRequest| {
            matches!(sent.kind, RequestKind::Release { .. }) && sent.final_at.is_none_or(|final_at| final_at > now)
        };
        state.holders.get(&(lock, holder)).is_some_and(|holder_state| holder_state.sent.iter().any(releases))
    }

    /// The time by which a lock without a relying holder must be free.
    pub fn free_by(&self, lock: usize) -> u64 {
        let state = self.state();
        let of_lock = state.holders.iter().filter(|((of, _), _)| *of == lock);
        of_lock.map(|(_, holder_state)| holder_state.may_hold_until().max(holder_state.until)).max().unwrap_or(0)
            + state.back_ms
    }

    /// The time by which every requested lease has expired.
    pub fn expired_by(&self, lock: usize) -> u64 {
        let state = self.state();
        let of_lock =
            state.holders.iter().filter(|((of, _), _)| *of == lock).flat_map(|(_, holder_state)| &holder_state.sent);
        of_lock.map(|sent| sent.expires_by).max().unwrap_or(0) + state.back_ms
    }

    /// Checks the fence of a grant to a new owner at the end of the history.
    pub fn check_probe(&self, lock: usize, fence: u64) {
        let highest_fence = self.state().highest_fence.get(&lock).copied().unwrap_or(0);
        if fence <= highest_fence {
            self.report_violation(format!("fence: {fence} is not above {highest_fence} (lock {lock})"));
        }
    }

    /// The sum of all clock jumps back: the latest time of any expiry is later by this.
    pub fn back_ms(&self) -> u64 {
        self.state().back_ms
    }
}

/// Faults.
impl Oracle {
    /// "a server is killed": the grants that it would have reverted last until their leases expire.
    pub fn killed(&self, server: usize) {
        let mut state = self.state();
        let now = self.world.now_ms();
        state.killed_at = now;
        state.unsent_ends.push((now, now));
        let sent = state.holders.values_mut().flat_map(|holder_state| &mut holder_state.sent);
        sent.filter(|sent| sent.reverted_by == Some(server)).for_each(|sent| sent.reverted_by = None);
    }

    pub fn restarted(&self) {
        self.state().has_restarted = true;
    }

    /// Whether the fault `clock-jump` may happen now. Two jumps in a short time are "a clock jump that
    /// is reverted before it is detected", which is the fault `clock-blip`.
    pub fn may_jump(&self) -> bool {
        self.wait_after_jump() == 0 && self.world.now_ms() >= self.state().started_at + NO_START_NEAR_JUMP_MS
    }

    /// The time until every server has detected the last clock jump. No server starts before, and no
    /// other jump follows.
    pub fn wait_after_jump(&self) -> u64 {
        let State { jumped_at, clock_unreadable_until, .. } = *self.state();
        jumped_at.map_or(0, |at| {
            (at.max(clock_unreadable_until) + NO_START_NEAR_JUMP_MS).saturating_sub(self.world.now_ms())
        })
    }

    /// Some server cannot read the clock for this time.
    pub fn clock_unreadable(&self, ms: u64) {
        let until = self.world.now_ms() + ms;
        let mut state = self.state();
        state.clock_unreadable_until = state.clock_unreadable_until.max(until);
    }

    pub fn started(&self) {
        self.state().started_at = self.world.now_ms();
    }

    pub fn paused(&self, ms: u64) {
        self.clock_unreadable(ms);
        let now = self.world.now_ms();
        let mut state = self.state();
        state.paused_ms += ms;
        state.unsent_ends.push((now, now + ms));
    }

    pub fn sql_unavailable(&self, ms: u64) {
        let until = self.world.now_ms() + ms;
        let mut state = self.state();
        state.sql_unavailable_until = state.sql_unavailable_until.max(until);
    }

    /// "Redis's clock jumps by more than a second, forward or back: leases expire early, or late, by
    /// the jump; no grants for 65 s". "a clock jump forward by more than a lease: a long lease that has
    /// expired by the new time is granted to another holder after the recovery".
    pub fn clock_jumped(&self, ms: i64) {
        let now = self.world.now_ms();
        let mut state = self.state();
        state.jumped_at = Some(now);
        if ms < 0 {
            state.back_ms += ms.unsigned_abs();
            return;
        }
        let earlier = ms.unsigned_abs();
        state.jumps.push((now, earlier));
        for holder_state in state.holders.values_mut() {
            holder_state.until = self.earlier(holder_state.until, (now, earlier));
            holder_state.guaranteed_until = holder_state.guaranteed_until.saturating_sub(earlier);
            holder_state.journaled_until = holder_state.journaled_until.saturating_sub(earlier);
        }
    }

    /// The time until which no other holder may have the lock, after a jump forward.
    fn earlier(&self, until: u64, (at, by): (u64, u64)) -> u64 {
        match by <= UNNOTICED_JUMP_MS {
            true => until.saturating_sub(by),
            false => until.min(until.saturating_sub(by).max(at + self.short_ms + 5000)),
        }
    }

    /// "Redis restarts empty, or is emptied: every short lease ...; holders of short leases learn of
    /// the loss at the next heartbeat". "Redis is killed and restarts, with ... a truncated
    /// [file]: grants, releases and breaks of the last second, at most". "If Redis loses all data
    /// before the journal has recorded the end of a long lease, and the server that ended it does
    /// not record the end afterwards ..., the lock has no holder until its lease would have
    /// expired."
    pub fn lost(&self, loss: Loss) {
        let now = self.world.now_ms();
        let mut state = self.state();
        state.losses.push(now);
        let State { holders, ended, sql_unavailable_until, killed_at, unsent_ends, .. } = &mut *state;
        // Whether the end of this time may never be recorded.
        let lost_with = |at: u64| now < at.max(*sql_unavailable_until) + END_RECORDED_MS;
        let is_sure = |at: u64| self.is_reliable && at > (*sql_unavailable_until).max(*killed_at);
        // "(it was killed or paused, it got no answer from Redis, or PostgreSQL did not answer ...)"
        let is_sent = |end: &GrantEnd| {
            let (from, until) = (end.at.saturating_sub(END_SENT_MS), end.at + END_SENT_MS);
            let may_be_unsent = unsent_ends.iter().any(|(begun, ended)| *begun <= until && *ended >= from);
            end.is_known && !may_be_unsent && now > until
        };
        if matches!(loss, Loss::Everything) {
            let sent = holders.values_mut().flat_map(|holder_state| &mut holder_state.sent);
            let is_lost = |final_at: u64| lost_with(final_at) && !is_sure(final_at);
            sent.filter(|sent| sent.final_at.is_none_or(is_lost)).for_each(|sent| sent.reverted_by = None);
        }
        // "Also reverts after a 503, if PostgreSQL was unavailable, too."
        if let Loss::Since(since) = loss {
            let sent = holders.values_mut().flat_map(|holder_state| &mut holder_state.sent);
            let is_lost = |final_at: u64| final_at + CARRIED_OUT_MS >= since && *sql_unavailable_until >= final_at;
            sent.filter(|sent| sent.final_at.is_none_or(is_lost)).for_each(|sent| sent.reverted_by = None);
        }
        for holder_state in holders.values_mut() {
            holder_state.guaranteed_until = holder_state.guaranteed_until.min(holder_state.journaled_until);
        }
        for ((lock, fence), end) in ended {
            let lock_key = &self.lock_keys[*lock];
            let is_lost = match loss {
                Loss::Everything if is_sent(end) && !self.database.has_received_end(lock_key, *fence) => false,
                Loss::Everything => lost_with(end.at) && !is_sure(end.at),
                Loss::Since(since) => end.at >= since,
            };
            if is_lost && !self.database.has_ended(lock_key, *fence) {
                end.is_excused = true;
                end.is_lost = true;
                // The holder may have another grant by now.
                let holder_state = holders.entry((*lock, end.holder)).or_default();
                holder_state.may_be_restored_until = holder_state.may_be_restored_until.max(end.until);
            }
        }
    }
}

/// Requests.
impl Oracle {
    pub fn send(&self, (lock, holder): (usize, usize), server: usize, id: u64, kind: RequestKind) {
        let now = self.world.now_ms();
        let mut state = self.state();
        let highest_fence = state.highest_fence.get(&lock).copied().unwrap_or(0);
        if let RequestKind::Break { fence } = kind {
            for ((of, _), holder_state) in &mut state.holders {
                if *of == lock && holder_state.fence == Some(fence) {
                    holder_state.until = 0;
                    holder_state.guaranteed_until = 0;
                    holder_state.sent.push(SentRequest::new(id, now, kind, highest_fence));
                }
            }
            return;
        }
        let holder_state = state.holders.entry((lock, holder)).or_default();
        match kind {
            RequestKind::Acquire { lease_ms, .. } | RequestKind::Heartbeat { lease_ms, .. } => {
                // "An unanswered request counts": it may have shortened the lease.
                for until in [
                    &mut holder_state.until,
                    &mut holder_state.believes_until,
                    &mut holder_state.guaranteed_until,
                    &mut holder_state.journaled_until,
                ] {
                    *until = (*until).min(now + lease_ms);
                }
            }
            RequestKind::Release { .. } | RequestKind::Break { .. } => {
                holder_state.until = 0;
                holder_state.believes_until = 0;
                holder_state.is_uncertain = false;
                holder_state.guaranteed_until = 0;
            }
        }
        holder_state.sent.push(SentRequest { server, ..SentRequest::new(id, now, kind, highest_fence) });
    }

    pub fn answer(&self, lock: usize, id: u64, outcome: Outcome) {
        let mut state = self.state();
        let Some(answered) = self.record_answer(&mut state, lock, id, outcome) else { return };
        let violations = match outcome {
            Outcome::Granted { fence, lease_ms } => self.granted(&mut state, &answered, fence, lease_ms),
            Outcome::Refused | Outcome::HeldByAnother => self.refused(&mut state, &answered, outcome),
            Outcome::Released | Outcome::Broken => {
                state.record_end(&answered);
                Vec::new()
            }
            Outcome::Unavailable | Outcome::HungUp | Outcome::NoAnswer => {
                if let RequestKind::Break { fence } = answered.kind {
                    state.end(answered.key, fence, answered.now, false);
                }
                Vec::new()
            }
            Outcome::NoEffect => Vec::new(),
        };
        drop(state);
        for what in violations {
            self.report_violation(format!("{what} (lock {lock})"));
        }
    }

    /// Records the answer to a request. Returns `None` if no holder had sent it.
    fn record_answer(&self, state: &mut State, lock: usize, id: u64, outcome: Outcome) -> Option<AnsweredRequest> {
        let now = self.world.now_ms();
        let State { holders, back_ms, paused_ms, slowest_ms, .. } = state;
        // A break is recorded for the holder of the grant.
        let concerned = holders
            .iter()
            .find(|((of, _), holder_state)| *of == lock && holder_state.sent.iter().any(|sent| sent.id == id));
        let key = concerned.map(|(key, _)| *key)?;
        let holder_state = holders.get_mut(&key)?;
        let sent = holder_state.sent.iter_mut().find(|sent| sent.id == id)?;
        let (at, kind, highest_fence) = (sent.at, sent.kind, sent.highest_fence);
        sent.final_at = Some(match outcome {
            Outcome::HungUp | Outcome::NoAnswer => now.max(at + CARRIED_OUT_MS) + *back_ms,
            // "commands in progress when the clock jumps back: their deadline is later by the jump".
            Outcome::Unavailable => now + *back_ms,
            _ => now,
        });
        sent.is_answered = !matches!(outcome, Outcome::HungUp | Outcome::NoAnswer);
        sent.has_no_effect = matches!(outcome, Outcome::NoEffect | Outcome::Refused | Outcome::HeldByAnother);
        if sent.has_no_effect {
            sent.may_hold_until = 0;
        }
        let is_reverted =
            matches!(kind, RequestKind::Acquire { .. }) && matches!(outcome, Outcome::Unavailable | Outcome::HungUp);
        sent.reverted_by = is_reverted.then_some(sent.server);
        if !matches!(outcome, Outcome::HungUp | Outcome::NoAnswer) {
            let wait_ms = if let RequestKind::Acquire { wait_ms, .. } = kind { wait_ms } else { 0 };
            *slowest_ms = (*slowest_ms).max((now - at).saturating_sub(wait_ms + *paused_ms));
        }
        if matches!(kind, RequestKind::Acquire { .. }) && matches!(outcome, Outcome::Unavailable | Outcome::NoAnswer) {
            holder_state.is_uncertain = true;
        }
        if is_reverted {
            holder_state.exclude_repeated(id);
        }
        let is_other = |sent: &&SentRequest| {
            sent.id != id && !sent.has_no_effect && sent.final_at.is_none_or(|final_at| final_at >= at)
        };
        let overlapping: Vec<_> = holder_state.sent.iter().filter(is_other).map(|sent| (sent.at, sent.kind)).collect();
        let may_have_ended =
            overlapping.iter().any(|(_, kind)| matches!(kind, RequestKind::Release { .. } | RequestKind::Break { .. }));
        Some(AnsweredRequest { key, now, at, kind, highest_fence, overlapping, may_have_ended })
    }

    fn granted(&self, state: &mut State, answered: &AnsweredRequest, fence: u64, lease_ms: u64) -> Vec<String> {
        let AnsweredRequest { key, now, at, kind, may_have_ended, .. } = *answered;
        let (lock, holder) = key;
        let mut violations = Vec::new();
        let requested = answered.overlapping.iter().filter_map(|(at, kind)| match kind {
            RequestKind::Acquire { lease_ms, .. } | RequestKind::Heartbeat { lease_ms, .. } => Some(at + lease_ms),
            RequestKind::Release { .. } | RequestKind::Break { .. } => None,
        });
        // Includes jumps and losses while the answer was in transit.
        let jumps = state.jumps.iter().filter(|(jumped_at, _)| *jumped_at >= at);
        let requested_until = requested.fold(at + lease_ms, u64::min);
        let until = jumps.clone().fold(requested_until, |until, jump| self.earlier(until, *jump));
        let guaranteed_until = jumps.fold(requested_until, |until, (_, by)| until.saturating_sub(*by));
        let is_lost = state.losses.iter().any(|lost_at| *lost_at >= at);
        if let Some(end) = state.ended.get(&(lock, fence)).filter(|end| end.at < at && !end.is_excused) {
            violations.push(format!("ended: fence {fence} ended at {} and is held again", seconds(end.at)));
        }
        let others = state.others(key, now);
        let end_is_lost = state.ended.get(&(lock, fence)).is_some_and(|end| end.is_lost);
        let lost_at = state.losses.last().copied().filter(|_| end_is_lost);
        let (losses, sql_unavailable_until) = (state.losses.clone(), state.sql_unavailable_until);
        let Some(holder_state) = state.holders.get_mut(&key) else { return violations };
        // A fence that the holder has released is not a continued grant.
        let is_new = !holder_state.fences.contains(&fence) || holder_state.released.contains(&fence) && !may_have_ended;
        let is_claimed = lost_at.is_some_and(|lost_at| holder_state.may_have_claimed(fence, lost_at));
        if matches!(kind, RequestKind::Acquire { .. }) && is_new && !is_claimed && fence <= answered.highest_fence {
            violations.push(format!("fence: {fence} is not above {}", answered.highest_fence));
        }
        // "A lease that is shortened meanwhile keeps its lock for the former lease".
        if sql_unavailable_until >= at {
            holder_state.sent.iter_mut().for_each(|sent| sent.reverted_by = None);
        }
        if holder_state.fence < Some(fence) {
            holder_state.last_grant_at = now;
            holder_state.journaled_until = 0;
        }
        // Answers can arrive out of order.
        holder_state.fence = holder_state.fence.max(Some(fence));
        if holder_state.fence == Some(fence) {
            holder_state.confirmed_at = holder_state.confirmed_at.max(at);
        }
        holder_state.fences.push(fence);
        let highest_fence = state.highest_fence.entry(lock).or_default();
        *highest_fence = (*highest_fence).max(fence);
        // A holder that has released relies on nothing, whatever it receives later.
        let has_released = holder_state.released.contains(&fence);
        if !may_have_ended && !has_released && until > now && holder_state.fence == Some(fence) {
            // "where a grant followed a lost break, its holder and the former one both believe that
            // they hold the lock."
            let was_lost = |sent: &SentRequest| {
                matches!(sent.kind, RequestKind::Break { fence: of } if of == fence)
                    && losses.iter().any(|lost_at| (sent.at..sent.at + END_RECORDED_MS).contains(lost_at))
            };
            let end_is_lost = end_is_lost || holder_state.sent.iter().any(was_lost);
            let others = others.into_iter().filter(|(_, other_fence, _)| !end_is_lost || *other_fence < Some(fence));
            for (other, other_fence, other_until) in others {
                violations.push(format!(
                    "two holders: h{holder} has fence {fence}, and h{other} relies on {other_fence:?} until {}",
                    seconds(other_until)
                ));
            }
            holder_state.until = until;
            holder_state.believes_until = until;
            holder_state.is_uncertain = false;
            holder_state.journaled_until = match lease_ms > self.short_ms {
                true => guaranteed_until,
                // The journal row keeps its expiry.
                false => holder_state.journaled_until.min(guaranteed_until),
            };
            holder_state.guaranteed_until = if is_lost { holder_state.journaled_until } else { guaranteed_until };
        }
        violations
    }

    fn refused(&self, state: &mut State, answered: &AnsweredRequest, outcome: Outcome) -> Vec<String> {
        let AnsweredRequest { key, now, at, kind, may_have_ended, .. } = *answered;
        let is_recovering = state.losses.last().is_some_and(|lost_at| now < lost_at + RECOVERY_MS);
        let has_recovered = state.has_recovered();
        let Some(holder_state) = state.holders.get_mut(&key) else { return Vec::new() };
        let concerns_grant = match kind {
            RequestKind::Heartbeat { fence, .. } | RequestKind::Release { fence } => {
                fence.is_none() || fence == holder_state.fence
            }
            // An acquire without an owner cannot be repeated.
            RequestKind::Acquire { .. } => self.owned[key.1] && !is_recovering,
            RequestKind::Break { .. } => false,
        };
        // "A grant from before a recovery gets a new fencing token when its owner acquires it
        // again ... Heartbeats with the former token are refused then, even while that acquire has
        // no answer".
        let has_fence =
            matches!(kind, RequestKind::Heartbeat { fence: Some(_), .. } | RequestKind::Release { fence: Some(_) });
        let has_acquire = answered.overlapping.iter().any(|(_, kind)| matches!(kind, RequestKind::Acquire { .. }));
        let may_be_refenced = has_acquire || holder_state.is_uncertain || holder_state.has_unanswered_acquire();
        let may_have_new_fence = has_fence && has_recovered && may_be_refenced;
        if !concerns_grant || holder_state.last_grant_at > at || may_have_new_fence {
            return Vec::new();
        }
        let mut violations = Vec::new();
        if !may_have_ended && holder_state.guaranteed_until > now {
            violations.push(format!(
                "lease: h{} was refused, but has fence {:?} until {}",
                key.1,
                holder_state.fence,
                seconds(holder_state.guaranteed_until)
            ));
        }
        holder_state.until = 0;
        holder_state.believes_until = 0;
        holder_state.is_uncertain = false;
        holder_state.guaranteed_until = 0;
        holder_state.journaled_until = 0;
        let has_no_fence =
            matches!(kind, RequestKind::Heartbeat { fence: None, .. } | RequestKind::Release { fence: None });
        if answered.overlapping.is_empty() && has_no_fence && !holder_state.may_be_granted(now) {
            let until = holder_state.may_hold_until();
            holder_state.clear_sent();
            // "It cannot if, after a recovery, another owner holds the lock".
            let may_be_refenced = has_recovered && matches!(outcome, Outcome::HeldByAnother);
            let is_known = matches!(kind, RequestKind::Release { .. }) && !may_be_refenced;
            state.end_refused(key, until, now, is_known);
        }
        violations
    }
}

impl State {
    /// The other holders that rely on a lock now: holder, fence, and time until which they do.
    fn others(&self, (lock, holder): (usize, usize), now: u64) -> Vec<(usize, Option<u64>, u64)> {
        let relies = |((of, other), holder_state): (&(usize, usize), &HolderState)| {
            (*of == lock && *other != holder && holder_state.until > now).then_some((
                *other,
                holder_state.fence,
                holder_state.until,
            ))
        };
        self.holders.iter().filter_map(relies).collect()
    }

    /// A grant was released or broken.
    fn record_end(&mut self, answered: &AnsweredRequest) {
        let AnsweredRequest { key, now, kind, .. } = *answered;
        let Some(holder_state) = self.holders.get_mut(&key) else { return };
        let cancels = matches!(kind, RequestKind::Release { fence: None });
        let is_alone = answered.overlapping.is_empty() && (cancels || !holder_state.may_be_granted(now));
        let (fence, is_sure) = match kind {
            RequestKind::Release { fence: Some(fence) } | RequestKind::Break { fence } => (Some(fence), true),
            // The released grant is uncertain if another request may have been executed first.
            RequestKind::Release { fence: None } => (holder_state.fence, is_alone),
            RequestKind::Acquire { .. } | RequestKind::Heartbeat { .. } => (None, false),
        };
        // The store may have lost this end since.
        let is_sure = is_sure && !self.losses.iter().any(|lost_at| *lost_at >= answered.at);
        if let Some(fence) = fence {
            if is_sure && matches!(kind, RequestKind::Release { .. }) {
                holder_state.released.push(fence);
            }
            self.end(key, fence, now, is_sure);
        }
        if is_alone && let Some(holder_state) = self.holders.get_mut(&key) {
            holder_state.clear_sent();
        }
    }

    /// A grant has ended, or may have.
    fn end(&mut self, key: (usize, usize), fence: u64, at: u64, is_sure: bool) {
        let sent = self.holders.get(&key).into_iter().flat_map(|holder_state| &holder_state.sent);
        // The holder may have been refused in between.
        let until = sent.map(|sent| if is_sure { sent.may_hold_until } else { sent.expires_by }).max().unwrap_or(0);
        self.ended.entry((key.0, fence)).or_insert(GrantEnd {
            holder: key.1,
            at,
            until,
            is_excused: !is_sure,
            is_known: is_sure,
            is_lost: false,
        });
    }

    /// A refusal has told the holder that its grant has ended, perhaps by a release without an answer.
    fn end_refused(&mut self, key: (usize, usize), until: u64, at: u64, is_known: bool) {
        let Some(fence) = self.holders.get(&key).and_then(|holder_state| holder_state.fence) else { return };
        let end = GrantEnd { holder: key.1, at, until, is_excused: true, is_known, is_lost: false };
        self.ended.entry((key.0, fence)).or_insert(end);
    }

    fn has_recovered(&self) -> bool {
        self.has_restarted || !self.losses.is_empty() || self.jumped_at.is_some()
    }
}

impl HolderState {
    fn may_hold_until(&self) -> u64 {
        let possible = self.sent.iter().filter(|sent| sent.reverted_by.is_none()).map(|sent| sent.may_hold_until);
        possible.max().unwrap_or(0).max(self.may_be_restored_until)
    }

    /// Whether a queued request may still be granted: a release with `fencing_token` never cancels
    /// one, and the server may not know that its client is gone.
    fn may_be_granted(&self, now: u64) -> bool {
        self.sent.iter().any(|sent| {
            let RequestKind::Acquire { lease_ms, wait_ms: 1.. } = sent.kind else { return false };
            let is_open = !sent.is_answered && sent.reverted_by.is_none();
            is_open && sent.may_hold_until.saturating_sub(lease_ms) > now
        })
    }

    /// No server reverts the grant of a repeated acquire, see [`REPEATED_MS`].
    fn exclude_repeated(&mut self, id: u64) {
        let Some(at) = self.sent.iter().find(|sent| sent.id == id).map(|sent| sent.at) else { return };
        let is_repeat = |sent: &SentRequest| {
            matches!(sent.kind, RequestKind::Acquire { .. })
                && !sent.has_no_effect
                && sent.id != id
                && (sent.final_at.is_none_or(|final_at| final_at + REPEATED_MS > at) || sent.may_hold_until > at)
        };
        if self.sent.iter().any(is_repeat) {
            let repeats = self.sent.iter_mut().filter(|sent| sent.id == id || is_repeat(sent));
            repeats.for_each(|sent| sent.reverted_by = None);
        }
    }

    /// Whether an acquire without an answer may have been executed after the last answer with `fence`.
    fn has_unanswered_acquire(&self) -> bool {
        self.sent.iter().any(|sent| {
            let RequestKind::Acquire { lease_ms, .. } = sent.kind else { return false };
            let executed_by = sent.final_at.map(|final_at| final_at.max(sent.expires_by - lease_ms));
            !sent.is_answered && executed_by.is_none_or(|executed_by| executed_by >= self.confirmed_at)
        })
    }

    /// "If Redis loses a release, a later heartbeat with the released token continues the grant": it may
    /// have been executed after the loss.
    fn may_have_claimed(&self, fence: u64, lost_at: u64) -> bool {
        self.sent.iter().any(|sent| {
            matches!(sent.kind, RequestKind::Heartbeat { fence: Some(of), .. } if of == fence)
                && !sent.has_no_effect
                && sent.final_at.is_none_or(|final_at| final_at >= lost_at)
        })
    }

    /// None of the earlier requests can leave a grant.
    fn clear_sent(&mut self) {
        self.sent.iter_mut().for_each(|sent| sent.may_hold_until = 0);
    }
}

impl SentRequest {
    fn new(id: u64, at: u64, kind: RequestKind, highest_fence: u64) -> Self {
        let may_hold_until = match kind {
            RequestKind::Acquire { lease_ms, wait_ms } => at + wait_ms + lease_ms + CARRIED_OUT_MS,
            RequestKind::Heartbeat { lease_ms, .. } => at + lease_ms + CARRIED_OUT_MS,
            RequestKind::Release { .. } | RequestKind::Break { .. } => 0,
        };
        Self {
            id,
            at,
            server: 0,
            kind,
            final_at: None,
            is_answered: false,
            has_no_effect: false,
            highest_fence,
            may_hold_until,
            expires_by: may_hold_until,
            reverted_by: None,
        }
    }
}

fn seconds(ms: u64) -> String {
    format!("{:.3}", ms as f64 / 1e3)
}
