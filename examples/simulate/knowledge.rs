//! What clients know, and what must follow from it. It is told of every request when it is
//! sent and answered, by the only clock that is right, and of the faults whose effect
//! docs/safety.md grants; of what servers and store think it knows nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use super::{history::History, journal::Database, world::World};

/// "leaps that are not noticed: up to 1 s": leases lapse earlier by as much.
const UNNOTICED_LEAP_MS: u64 = 1050;
/// "a server that starts before the others have noticed a leap: 1 s, or for as long as all the
/// others are paused or cannot reach Redis".
const NO_START_NEAR_LEAP_MS: u64 = 1600;
/// "pauses of a server that are not noticed, up to 1 s: a release or heartbeat can be
/// carried out up to 1.5 s after it was sent". What got no answer counts for so long.
const CARRIED_OUT_MS: u64 = 2000;
/// "5 s later, any server: `ended` is read", and is what the server that ended it may be
/// recording until it is found once more: two rounds, and what they take.
const END_RECORDED_MS: u64 = 16_000;
/// "an answer: 500 ms for each of two scripts, 2 s for the journal, 500 ms to shorten a lease",
/// and what messages take; tokens are not looked up here.
pub const ANSWER_MS: u64 = 3600;

/// "closed: acquires are refused": one that repeats its acquire is told who holds the lock as
/// far as the store knows, not that it has lost it.
const RECOVERY_MS: u64 = 16_000;
/// "If acquires of one owner overlap and all are answered 503, the lock may stay held until
/// the lease lapses": a repeated acquire makes the grant one that no attempt may take back.
/// They overlap with what takes the former one back, too.
const REPEATED_MS: u64 = 5000;

pub struct Knowledge {
    world: Arc<World>,
    database: Arc<Database>,
    short_ms: u64,
    places: Vec<String>,
    /// Which holders have an owner.
    owned: Vec<bool>,
    /// Every message between servers and store arrives soon, and so do statements unless SQL is
    /// away.
    is_calm: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    holders: BTreeMap<(usize, usize), Holder>,
    /// The largest fence of each lock that a client knows.
    highest: BTreeMap<usize, u64>,
    ended: BTreeMap<(usize, u64), Ended>,
    /// Leaps ahead, with how far, and losses.
    leaps: Vec<(u64, u64)>,
    losses: Vec<u64>,
    leapt_at: Option<u64>,
    /// Until when some server may not notice that it has.
    blind_until: u64,
    /// The store was restarted, with or without its data.
    has_restarted: bool,
    started_at: u64,
    /// By how much leases lapse late: the clock was set back so far.
    back_ms: u64,
    paused_ms: u64,
    sql_away_until: u64,
    /// When a server was killed last, with the ends that it was to record.
    killed_until: u64,
    slowest_ms: u64,
    violation: Option<String>,
}

#[derive(Default)]
struct Holder {
    fence: Option<u64>,
    /// All that it was ever told.
    fences: Vec<u64>,
    released: Vec<u64>,
    /// Since when it knows of the last one.
    told_at: u64,
    /// Until when it relies on the lock: nobody else may have it before.
    until: u64,
    /// Until when it thinks so: one that is broken is not told.
    thinks_until: u64,
    /// An acquire got no answer, or 503: it may hold the lock all the same.
    is_unsure: bool,
    /// Until when its lease lasts, whatever happens but what is excused.
    lasts_until: u64,
    /// The same, as far as the journal knows of it.
    sure_until: u64,
    sent: Vec<Sent>,
    /// Until when a grant may stand whose end was lost.
    restored_until: u64,
}

struct Sent {
    id: u64,
    at: u64,
    server: usize,
    kind: Kind,
    /// When it is sure that it is not carried out later.
    over: Option<u64>,
    is_answered: bool,
    /// It has changed nothing.
    is_void: bool,
    highest: u64,
    /// Until when a grant may stand that it has made or renewed.
    holds_until: u64,
    lapses_by: u64,
    /// The server that takes the grant back, since its answer was lost.
    reverted_by: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Acquire { lease_ms: u64, wait_ms: u64 },
    Heartbeat { lease_ms: u64, fence: Option<u64> },
    Release { fence: Option<u64> },
    Break { fence: u64 },
}

/// A request that has its answer.
struct Answered {
    /// Lock and holder.
    key: (usize, usize),
    now: u64,
    at: u64,
    kind: Kind,
    /// The largest fence that a client knew when it was sent.
    highest: u64,
    /// What else of the holder was under way meanwhile, and since when.
    overlapping: Vec<(u64, Kind)>,
    /// Whether the grant may have ended meanwhile.
    ends: bool,
}

struct Ended {
    holder: usize,
    at: u64,
    /// Until when its lease would have lasted.
    until: u64,
    is_excused: bool,
    /// The store has lost it before the journal had recorded it.
    is_lost: bool,
}

#[derive(Clone, Copy)]
pub enum Loss {
    Everything,
    /// What was written since.
    Since(u64),
}

#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    Granted {
        fence: u64,
        lease_ms: u64,
    },
    /// Not held by who asks.
    No,
    Released,
    Broken,
    /// Refused before anything was done.
    Void,
    /// 503: it is not carried out any more.
    Failed,
    /// The client has hung up, or the server was killed.
    HungUp,
    Lost,
}

impl Knowledge {
    pub fn new(world: Arc<World>, database: Arc<Database>, history: &History, places: Vec<String>) -> Arc<Self> {
        let owned = history.holders.iter().map(|holder| holder.has_owner).collect();
        let is_calm = history.is_calm();
        Arc::new(Self { world, database, short_ms: history.short_ms, places, owned, is_calm, state: Mutex::default() })
    }

    pub fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    pub fn violate(&self, what: String) {
        self.world.note("violation", || format!("!!! {what}"));
        self.state().violation.get_or_insert(what);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The slowest answer, without the time that servers stood still.
    pub fn slowest_ms(&self) -> u64 {
        self.state().slowest_ms
    }

    pub fn fence_of(&self, lock: usize, holder: usize) -> Option<u64> {
        self.state().holders.get(&(lock, holder))?.fence
    }

    /// The holder of a lock that somebody relies on.
    pub fn holder_of(&self, lock: usize) -> Option<(usize, u64)> {
        let (state, now) = (self.state(), self.world.now_ms());
        let relies = |((of, holder), known): (&(usize, usize), &Holder)| {
            (*of == lock && known.until > now).then_some((*holder, known.fence?))
        };
        state.holders.iter().find_map(relies)
    }

    pub fn relies(&self, lock: usize, holder: usize) -> bool {
        self.state().holders.get(&(lock, holder)).is_some_and(|known| known.until > self.world.now_ms())
    }

    /// Whether it may send a heartbeat.
    pub fn thinks_it_holds(&self, lock: usize, holder: usize) -> bool {
        let now = self.world.now_ms();
        let thinks = |known: &Holder| known.thinks_until > now || known.is_unsure && self.owned[holder];
        self.state().holders.get(&(lock, holder)).is_some_and(thinks)
    }

    /// Whether a grant of this holder may stand of which it does not know for sure.
    pub fn may_hold(&self, lock: usize, holder: usize) -> bool {
        self.state().holders.get(&(lock, holder)).is_some_and(|known| known.may_hold_until() > self.world.now_ms())
    }

    /// "Do not use an owner for a new grant while its release is unanswered."
    pub fn is_releasing(&self, lock: usize, holder: usize) -> bool {
        let (state, now) = (self.state(), self.world.now_ms());
        let releases =
            |sent: &Sent| matches!(sent.kind, Kind::Release { .. }) && sent.over.is_none_or(|over| over > now);
        state.holders.get(&(lock, holder)).is_some_and(|known| known.sent.iter().any(releases))
    }

    /// By when a lock is free that nobody holds.
    pub fn free_by(&self, lock: usize) -> u64 {
        let state = self.state();
        let of_lock = state.holders.iter().filter(|((of, _), _)| *of == lock);
        of_lock.map(|(_, known)| known.may_hold_until().max(known.until)).max().unwrap_or(0) + state.back_ms
    }

    /// By when every lease has lapsed that was ever asked for.
    pub fn lapsed_by(&self, lock: usize) -> u64 {
        let state = self.state();
        let of_lock = state.holders.iter().filter(|((of, _), _)| *of == lock).flat_map(|(_, known)| &known.sent);
        of_lock.map(|sent| sent.lapses_by).max().unwrap_or(0) + state.back_ms
    }

    /// Somebody new was granted a lock at the end.
    pub fn probed(&self, lock: usize, fence: u64) {
        let highest = self.state().highest.get(&lock).copied().unwrap_or(0);
        if fence <= highest {
            self.violate(format!("fence: {fence} is not above {highest} (lock {lock})"));
        }
    }

    pub fn back_ms(&self) -> u64 {
        self.state().back_ms
    }
}

/// Faults.
impl Knowledge {
    /// "a server is killed": what it was to take back stands until the lease has lapsed.
    pub fn killed(&self, server: usize) {
        let mut state = self.state();
        state.killed_until = self.world.now_ms();
        let sent = state.holders.values_mut().flat_map(|known| &mut known.sent);
        sent.filter(|sent| sent.reverted_by == Some(server)).for_each(|sent| sent.reverted_by = None);
    }

    pub fn restarted(&self) {
        self.state().has_restarted = true;
    }

    /// "a leap that is undone before it is noticed" is what `blip` is for.
    pub fn may_leap(&self) -> bool {
        self.rest_after_leap() == 0 && self.world.now_ms() >= self.state().started_at + NO_START_NEAR_LEAP_MS
    }

    pub fn rest_after_leap(&self) -> u64 {
        let State { leapt_at, blind_until, .. } = *self.state();
        leapt_at.map_or(0, |at| (at.max(blind_until) + NO_START_NEAR_LEAP_MS).saturating_sub(self.world.now_ms()))
    }

    /// Some server cannot read the clock for so long.
    pub fn blind(&self, ms: u64) {
        let until = self.world.now_ms() + ms;
        let mut state = self.state();
        state.blind_until = state.blind_until.max(until);
    }

    pub fn started(&self) {
        self.state().started_at = self.world.now_ms();
    }

    pub fn paused(&self, ms: u64) {
        self.blind(ms);
        self.state().paused_ms += ms;
    }

    pub fn sql_away(&self, ms: u64) {
        let until = self.world.now_ms() + ms;
        let mut state = self.state();
        state.sql_away_until = state.sql_away_until.max(until);
    }

    /// "its clock leaps by more than a second, ahead or back: leases lapse early, or late, by
    /// the leap; no grants for 65 s". "a leap ahead by more than a lease: a long lease that
    /// lapsed by the new time is granted to another holder after the recovery".
    pub fn leapt(&self, ms: i64) {
        let now = self.world.now_ms();
        let mut state = self.state();
        state.leapt_at = Some(now);
        if ms < 0 {
            state.back_ms += ms.unsigned_abs();
            return;
        }
        let earlier = ms.unsigned_abs();
        state.leaps.push((now, earlier));
        for known in state.holders.values_mut() {
            known.until = self.earlier(known.until, (now, earlier));
            known.lasts_until = known.lasts_until.saturating_sub(earlier);
            known.sure_until = known.sure_until.saturating_sub(earlier);
        }
    }

    /// Until when nobody else has the lock, after the clock has leapt ahead.
    fn earlier(&self, until: u64, (at, by): (u64, u64)) -> u64 {
        match by <= UNNOTICED_LEAP_MS {
            true => until.saturating_sub(by),
            false => until.min(until.saturating_sub(by).max(at + self.short_ms + 5000)),
        }
    }

    /// "Redis comes back empty, or is emptied: every short lease ... holders of short leases
    /// are told at the next heartbeat". "Redis is killed and comes back, its file cut short:
    /// grants of the last second, at most". "If Redis loses everything before the journal has
    /// recorded the end of a long lease, and the server that ended it does not, nobody holds that lock until its lease would have
    /// lapsed."
    pub fn lost(&self, loss: Loss) {
        let now = self.world.now_ms();
        let mut state = self.state();
        state.losses.push(now);
        let State { holders, ended, sql_away_until, killed_until, .. } = &mut *state;
        // When an end that is younger may not be recorded any more.
        let lost_with = |at: u64| now < at.max(*sql_away_until) + END_RECORDED_MS;
        let is_sure = |at: u64| self.is_calm && at > (*sql_away_until).max(*killed_until);
        if matches!(loss, Loss::Everything) {
            let sent = holders.values_mut().flat_map(|known| &mut known.sent);
            let is_lost = |over: u64| lost_with(over) && !is_sure(over);
            sent.filter(|sent| sent.over.is_none_or(is_lost)).for_each(|sent| sent.reverted_by = None);
        }
        // "So is what was taken back after a 503, if PostgreSQL was away, too."
        if let Loss::Since(since) = loss {
            let sent = holders.values_mut().flat_map(|known| &mut known.sent);
            let is_lost = |over: u64| over + CARRIED_OUT_MS >= since && *sql_away_until >= over;
            sent.filter(|sent| sent.over.is_none_or(is_lost)).for_each(|sent| sent.reverted_by = None);
        }
        for known in holders.values_mut() {
            known.lasts_until = known.lasts_until.min(known.sure_until);
        }
        for ((lock, fence), end) in ended {
            let is_lost = match loss {
                Loss::Everything => lost_with(end.at) && !is_sure(end.at),
                Loss::Since(since) => end.at >= since,
            };
            if is_lost && !self.database.has_ended(&self.places[*lock], *fence) {
                end.is_excused = true;
                end.is_lost = true;
                // It may hold another grant by now.
                let known = holders.entry((*lock, end.holder)).or_default();
                known.restored_until = known.restored_until.max(end.until);
            }
        }
    }
}

/// Requests.
impl Knowledge {
    pub fn send(&self, (lock, holder): (usize, usize), server: usize, id: u64, kind: Kind) {
        let now = self.world.now_ms();
        let mut state = self.state();
        let highest = state.highest.get(&lock).copied().unwrap_or(0);
        if let Kind::Break { fence } = kind {
            for ((of, _), known) in &mut state.holders {
                if *of == lock && known.fence == Some(fence) {
                    known.until = 0;
                    known.lasts_until = 0;
                    known.sent.push(Sent::new(id, now, kind, highest));
                }
            }
            return;
        }
        let known = state.holders.entry((lock, holder)).or_default();
        match kind {
            Kind::Acquire { lease_ms, .. } | Kind::Heartbeat { lease_ms, .. } => {
                // "An unanswered request counts": it may have shortened the lease.
                for until in [&mut known.until, &mut known.thinks_until, &mut known.lasts_until, &mut known.sure_until]
                {
                    *until = (*until).min(now + lease_ms);
                }
            }
            Kind::Release { .. } | Kind::Break { .. } => {
                known.until = 0;
                known.thinks_until = 0;
                known.is_unsure = false;
                known.lasts_until = 0;
            }
        }
        known.sent.push(Sent { server, ..Sent::new(id, now, kind, highest) });
    }

    pub fn answer(&self, lock: usize, id: u64, outcome: Outcome) {
        let mut state = self.state();
        let Some(answered) = self.settle(&mut state, lock, id, outcome) else { return };
        let violations = match outcome {
            Outcome::Granted { fence, lease_ms } => self.granted(&mut state, &answered, fence, lease_ms),
            Outcome::No => self.denied(&mut state, &answered),
            Outcome::Released | Outcome::Broken => {
                state.note_end(&answered);
                Vec::new()
            }
            Outcome::Failed | Outcome::HungUp | Outcome::Lost => {
                if let Kind::Break { fence } = answered.kind {
                    state.end(answered.key, fence, answered.now, false);
                }
                Vec::new()
            }
            Outcome::Void => Vec::new(),
        };
        drop(state);
        for what in violations {
            self.violate(format!("{what} (lock {lock})"));
        }
    }

    /// Notes the answer to a request. Returns `None` when no holder had sent it.
    fn settle(&self, state: &mut State, lock: usize, id: u64, outcome: Outcome) -> Option<Answered> {
        let now = self.world.now_ms();
        let State { holders, back_ms, paused_ms, slowest_ms, .. } = state;
        // A break is known to whom it concerns.
        let concerned =
            holders.iter().find(|((of, _), known)| *of == lock && known.sent.iter().any(|sent| sent.id == id));
        let key = concerned.map(|(key, _)| *key)?;
        let known = holders.get_mut(&key)?;
        let sent = known.sent.iter_mut().find(|sent| sent.id == id)?;
        let (at, kind, highest) = (sent.at, sent.kind, sent.highest);
        sent.over = Some(match outcome {
            Outcome::HungUp | Outcome::Lost => now.max(at + CARRIED_OUT_MS) + *back_ms,
            // "commands under way when the clock leaps back: their deadline is later by as much".
            Outcome::Failed => now + *back_ms,
            _ => now,
        });
        sent.is_answered = !matches!(outcome, Outcome::HungUp | Outcome::Lost);
        sent.is_void = matches!(outcome, Outcome::Void | Outcome::No);
        if sent.is_void {
            sent.holds_until = 0;
        }
        let is_reverted = matches!(kind, Kind::Acquire { .. }) && matches!(outcome, Outcome::Failed | Outcome::HungUp);
        sent.reverted_by = is_reverted.then_some(sent.server);
        if !matches!(outcome, Outcome::HungUp | Outcome::Lost) {
            let wait_ms = if let Kind::Acquire { wait_ms, .. } = kind { wait_ms } else { 0 };
            *slowest_ms = (*slowest_ms).max((now - at).saturating_sub(wait_ms + *paused_ms));
        }
        if matches!(kind, Kind::Acquire { .. }) && matches!(outcome, Outcome::Failed | Outcome::Lost) {
            known.is_unsure = true;
        }
        if is_reverted {
            known.keep_repeated(id);
        }
        let is_other = |sent: &&Sent| sent.id != id && !sent.is_void && sent.over.is_none_or(|over| over >= at);
        let overlapping: Vec<_> = known.sent.iter().filter(is_other).map(|sent| (sent.at, sent.kind)).collect();
        let ends = overlapping.iter().any(|(_, kind)| matches!(kind, Kind::Release { .. } | Kind::Break { .. }));
        Some(Answered { key, now, at, kind, highest, overlapping, ends })
    }

    fn granted(&self, state: &mut State, answered: &Answered, fence: u64, lease_ms: u64) -> Vec<String> {
        let Answered { key, now, at, kind, ends, .. } = *answered;
        let (lock, holder) = key;
        let mut violations = Vec::new();
        let least = answered.overlapping.iter().filter_map(|(at, kind)| match kind {
            Kind::Acquire { lease_ms, .. } | Kind::Heartbeat { lease_ms, .. } => Some(at + lease_ms),
            Kind::Release { .. } | Kind::Break { .. } => None,
        });
        // What happened while the answer was under way counts, too.
        let leaps = state.leaps.iter().filter(|(leapt_at, _)| *leapt_at >= at);
        let asked = least.fold(at + lease_ms, u64::min);
        let until = leaps.clone().fold(asked, |until, leap| self.earlier(until, *leap));
        let lasts_until = leaps.fold(asked, |until, (_, by)| until.saturating_sub(*by));
        let is_lost = state.losses.iter().any(|lost_at| *lost_at >= at);
        if let Some(end) = state.ended.get(&(lock, fence)).filter(|end| end.at < at && !end.is_excused) {
            violations.push(format!("ended: fence {fence} ended at {} and is held again", seconds(end.at)));
        }
        let others = state.others(key, now);
        let end_is_lost = state.ended.get(&(lock, fence)).is_some_and(|end| end.is_lost);
        let (losses, sql_away_until) = (state.losses.clone(), state.sql_away_until);
        let Some(known) = state.holders.get_mut(&key) else { return violations };
        // What was released is no grant of its own that goes on.
        let is_new = !known.fences.contains(&fence) || known.released.contains(&fence) && !ends;
        if matches!(kind, Kind::Acquire { .. }) && is_new && fence <= answered.highest {
            violations.push(format!("fence: {fence} is not above {}", answered.highest));
        }
        // "A lease that is shortened meanwhile keeps its lock for the former lease".
        if sql_away_until >= at {
            known.sent.iter_mut().for_each(|sent| sent.reverted_by = None);
        }
        if known.fence < Some(fence) {
            known.told_at = now;
            known.sure_until = 0;
        }
        // Answers may overtake each other.
        known.fence = known.fence.max(Some(fence));
        known.fences.push(fence);
        let highest = state.highest.entry(lock).or_default();
        *highest = (*highest).max(fence);
        // One that has released relies on nothing, whatever it is told.
        let has_released = known.released.contains(&fence);
        if !ends && !has_released && until > now && known.fence == Some(fence) {
            // "Where a grant followed a lost break, its holder and the former one both believe that
            // they hold the lock."
            let was_lost = |sent: &Sent| {
                matches!(sent.kind, Kind::Break { fence: of } if of == fence)
                    && losses.iter().any(|lost_at| (sent.at..sent.at + END_RECORDED_MS).contains(lost_at))
            };
            let end_is_lost = end_is_lost || known.sent.iter().any(was_lost);
            let others = others.into_iter().filter(|(_, its_fence, _)| !end_is_lost || *its_fence < Some(fence));
            for (other, its_fence, its_until) in others {
                violations.push(format!(
                    "two holders: h{holder} has fence {fence}, and h{other} relies on {its_fence:?} until {}",
                    seconds(its_until)
                ));
            }
            known.until = until;
            known.thinks_until = until;
            known.is_unsure = false;
            known.sure_until = match lease_ms > self.short_ms {
                true => lasts_until,
                // The row stays as long as it was.
                false => known.sure_until.min(lasts_until),
            };
            known.lasts_until = if is_lost { known.sure_until } else { lasts_until };
        }
        violations
    }

    fn denied(&self, state: &mut State, answered: &Answered) -> Vec<String> {
        let Answered { key, now, at, kind, ends, .. } = *answered;
        let is_recovering = state.losses.last().is_some_and(|lost_at| now < lost_at + RECOVERY_MS);
        let has_recovered = state.has_restarted || !state.losses.is_empty() || state.leapt_at.is_some();
        let Some(known) = state.holders.get_mut(&key) else { return Vec::new() };
        let is_about_it = match kind {
            Kind::Heartbeat { fence, .. } | Kind::Release { fence } => fence.is_none() || fence == known.fence,
            // One without an owner cannot be repeated.
            Kind::Acquire { .. } => self.owned[key.1] && !is_recovering,
            Kind::Break { .. } => false,
        };
        // "A grant from before a recovery gets a new fence when its owner acquires it again; a heartbeat
        // with the former fence is refused then, also while that acquire has no answer."
        let has_fence = matches!(kind, Kind::Heartbeat { fence: Some(_), .. } | Kind::Release { fence: Some(_) });
        let asks_again = answered.overlapping.iter().any(|(_, kind)| matches!(kind, Kind::Acquire { .. }));
        let is_fenced_anew = has_fence && has_recovered && (asks_again || known.is_unsure);
        if !is_about_it || known.told_at > at || is_fenced_anew {
            return Vec::new();
        }
        let mut violations = Vec::new();
        if !ends && known.lasts_until > now {
            violations.push(format!(
                "lease: h{} was told no, and has fence {:?} until {}",
                key.1,
                known.fence,
                seconds(known.lasts_until)
            ));
        }
        known.until = 0;
        known.thinks_until = 0;
        known.is_unsure = false;
        known.lasts_until = 0;
        known.sure_until = 0;
        let is_any = matches!(kind, Kind::Heartbeat { fence: None, .. } | Kind::Release { fence: None });
        if answered.overlapping.is_empty() && is_any && !known.may_be_granted(now) {
            known.forget_sent();
        }
        violations
    }
}

impl State {
    /// Who else relies on a lock now: holder, fence, and until when.
    fn others(&self, (lock, holder): (usize, usize), now: u64) -> Vec<(usize, Option<u64>, u64)> {
        let relies = |((of, other), known): (&(usize, usize), &Holder)| {
            (*of == lock && *other != holder && known.until > now).then_some((*other, known.fence, known.until))
        };
        self.holders.iter().filter_map(relies).collect()
    }

    /// A grant was released or broken.
    fn note_end(&mut self, answered: &Answered) {
        let Answered { key, now, kind, .. } = *answered;
        let Some(known) = self.holders.get_mut(&key) else { return };
        let cancels = matches!(kind, Kind::Release { fence: None });
        let is_alone = answered.overlapping.is_empty() && (cancels || !known.may_be_granted(now));
        let (fence, is_sure) = match kind {
            Kind::Release { fence: Some(fence) } | Kind::Break { fence } => (Some(fence), true),
            // Which one it was is not known if another request may have been first.
            Kind::Release { fence: None } => (known.fence, is_alone),
            Kind::Acquire { .. } | Kind::Heartbeat { .. } => (None, false),
        };
        // What the store lost since it was sent may have been this.
        let is_sure = is_sure && !self.losses.iter().any(|lost_at| *lost_at >= answered.at);
        if let Some(fence) = fence {
            if is_sure && matches!(kind, Kind::Release { .. }) {
                known.released.push(fence);
            }
            self.end(key, fence, now, is_sure);
        }
        if is_alone && let Some(known) = self.holders.get_mut(&key) {
            known.forget_sent();
        }
    }

    /// A grant has ended, or may have.
    fn end(&mut self, key: (usize, usize), fence: u64, at: u64, is_sure: bool) {
        let sent = self.holders.get(&key).into_iter().flat_map(|known| &known.sent);
        // Its holder may have been told in between that it holds nothing.
        let until = sent.map(|sent| if is_sure { sent.holds_until } else { sent.lapses_by }).max().unwrap_or(0);
        self.ended.entry((key.0, fence)).or_insert(Ended {
            holder: key.1,
            at,
            until,
            is_excused: !is_sure,
            is_lost: false,
        });
    }
}

impl Holder {
    fn may_hold_until(&self) -> u64 {
        let stands = self.sent.iter().filter(|sent| sent.reverted_by.is_none()).map(|sent| sent.holds_until);
        stands.max().unwrap_or(0).max(self.restored_until)
    }

    /// Whether a request may be granted still that waits: "a release with `fencing_token` never
    /// cancels a waiter", and the client of one may be gone without a word.
    fn may_be_granted(&self, now: u64) -> bool {
        self.sent.iter().any(|sent| {
            let Kind::Acquire { lease_ms, wait_ms: 1.. } = sent.kind else { return false };
            let is_open = !sent.is_answered && sent.reverted_by.is_none();
            is_open && sent.holds_until.saturating_sub(lease_ms) > now
        })
    }

    /// Nothing takes back what was asked for again, see [`REPEATED_MS`].
    fn keep_repeated(&mut self, id: u64) {
        let Some(at) = self.sent.iter().find(|sent| sent.id == id).map(|sent| sent.at) else { return };
        let is_repeat = |sent: &Sent| {
            matches!(sent.kind, Kind::Acquire { .. })
                && !sent.is_void
                && sent.id != id
                && (sent.over.is_none_or(|over| over + REPEATED_MS > at) || sent.holds_until > at)
        };
        if self.sent.iter().any(is_repeat) {
            let repeats = self.sent.iter_mut().filter(|sent| sent.id == id || is_repeat(sent));
            repeats.for_each(|sent| sent.reverted_by = None);
        }
    }

    /// It holds nothing any more, whatever was asked before.
    fn forget_sent(&mut self) {
        self.sent.iter_mut().for_each(|sent| sent.holds_until = 0);
    }
}

impl Sent {
    fn new(id: u64, at: u64, kind: Kind, highest: u64) -> Self {
        let holds_until = match kind {
            Kind::Acquire { lease_ms, wait_ms } => at + wait_ms + lease_ms + CARRIED_OUT_MS,
            Kind::Heartbeat { lease_ms, .. } => at + lease_ms + CARRIED_OUT_MS,
            Kind::Release { .. } | Kind::Break { .. } => 0,
        };
        Self {
            id,
            at,
            server: 0,
            kind,
            over: None,
            is_answered: false,
            is_void: false,
            highest,
            holds_until,
            lapses_by: holds_until,
            reverted_by: None,
        }
    }
}

fn seconds(ms: u64) -> String {
    format!("{:.3}", ms as f64 / 1e3)
}
