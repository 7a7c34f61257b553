mod state;

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, clock::Clock};

use self::state::State;
use super::Rates;
use crate::lock::{Rate, RateDue, RateStanding};

/// What the pod knows of one account's rate.
pub struct Meter {
    plan: Rate,
    /// The rate of the shared limiter: the plan's, less a reserve for permits.
    shared: Rate,
    bucket: Arc<str>,
    /// Whether the bucket is where the locks are, so that their scripts can charge it.
    is_beside_locks: bool,
    local: DefaultDirectRateLimiter,
    state: Mutex<State>,
    /// Held while permits are drawn.
    pub(super) drawing: tokio::sync::Mutex<()>,
}

/// How a request is to be paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Draw {
    /// By a permit that the pod had.
    Permit,
    /// In the script that serves it.
    PayInScript,
    /// By permits that are still to be drawn.
    Refill { wanted: u32 },
}

impl Meter {
    /// The least rate for which permits are drawn.
    const PERMITS_RATE_MIN: u32 = 100;
    /// How many requests there must have been in the last window for the next
    /// to be worth drawing permits for. Where the scripts of the locks can charge the
    /// bucket that takes no further command, and drawing takes one.
    const DEMAND_MIN: u32 = 16;
    const DEMAND_MIN_APART: u32 = 4;
    /// For how long the shared limiter is left alone that could not be asked.
    const UNASKED: Duration = Duration::from_secs(1);

    pub(super) fn new(plan: Rate, bucket: impl Into<Arc<str>>, is_beside_locks: bool) -> Self {
        let reserve = permits_per_life(plan);
        let uses_permits = plan.per_second >= Self::PERMITS_RATE_MIN && plan.burst >= reserve.saturating_mul(2);
        let shared = if uses_permits { Rate { burst: plan.burst - reserve, ..plan } } else { plan };
        let at_least_one = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(plan.per_second)).allow_burst(at_least_one(plan.burst));
        let now = Instant::now();
        let state = State::new(now);
        Self {
            plan,
            shared,
            bucket: bucket.into(),
            is_beside_locks,
            local: DefaultDirectRateLimiter::direct(quota),
            state: Mutex::new(state),
            drawing: tokio::sync::Mutex::default(),
        }
    }

    /// Says how a request is to be paid for, or for how long the account is refused
    /// without asking Redis, since it is known to have used up its rate, over all
    /// pods or in this one; and how it stands.
    pub(super) fn ask(&self, now: Instant) -> (Result<Draw, Duration>, RateStanding) {
        let mut state = self.state();
        let asked = match self.refusal(&state, now) {
            Some(retry_after) => Err(retry_after),
            None => Ok(self.draw_from(&mut state, now)),
        };
        (asked, self.standing_of(&state, now))
    }

    fn refusal(&self, state: &State, now: Instant) -> Option<Duration> {
        if state.refused_until > now {
            return Some(state.refused_until - now);
        }
        let refused = self.local.check().err()?;
        Some(refused.wait_time_from(self.local.clock().now()))
    }

    /// Takes a permit, or says how to come by one.
    pub(super) fn draw(&self, now: Instant) -> Draw {
        self.draw_from(&mut self.state(), now)
    }

    fn draw_from(&self, state: &mut State, now: Instant) -> Draw {
        if self.shared == self.plan {
            return self.pay_one(state, now);
        }
        if now < state.permits_end && state.permits > 0 {
            state.count(now);
            state.permits -= 1;
            return Draw::Permit;
        }
        match state.demand_at(now) {
            demand if demand < self.demand_min() => {
                let draw = self.pay_one(state, now);
                if draw == Draw::PayInScript {
                    state.count(now);
                }
                draw
            }
            _ if now < state.unasked_until => Draw::Permit,
            demand => Draw::Refill { wanted: demand.min(permits_per_life(self.plan)) },
        }
    }

    fn demand_min(&self) -> u32 {
        if self.is_beside_locks { Self::DEMAND_MIN } else { Self::DEMAND_MIN_APART }
    }

    /// Has one request charged, wherever that can be done.
    fn pay_one(&self, state: &State, now: Instant) -> Draw {
        match self.is_beside_locks {
            true => Draw::PayInScript,
            false if now < state.unasked_until => Draw::Permit,
            false => Draw::Refill { wanted: 1 },
        }
    }

    /// In a cluster the bucket may be on a node that is away, and the lock on one
    /// that is there. Then this pod's limiter is the only one for a while.
    pub(super) fn go_on_without(&self, failed_at: Instant) -> bool {
        if !self.is_beside_locks {
            self.state().unasked_until = failed_at + Self::UNASKED;
        }
        !self.is_beside_locks
    }

    /// Puts permits in, less the one that paid for drawing them.
    pub(super) fn fill(&self, permits: u32, drawn_at: Instant) {
        let mut state = self.state();
        state.count(drawn_at);
        state.permits = permits.saturating_sub(1);
        state.permits_end = drawn_at + Rates::PERMIT_LIFE;
    }

    pub(super) fn due(&self) -> RateDue {
        RateDue { bucket: self.bucket.clone(), rate: self.shared }
    }

    /// Takes note of how the account stands by the shared limiter's word, and of how
    /// long it has to wait if it was refused.
    pub fn settle(&self, standing: RateStanding, retry_after: Option<Duration>, now: Instant) {
        let mut state = self.state();
        state.backlog = (standing.reset, now);
        if let Some(retry_after) = retry_after {
            state.refused_until = now + retry_after;
        }
    }

    /// How the account stands, as far as the pod knows: what the shared limiter
    /// said last, less what was refilled since, and with the permits in hand.
    pub fn standing(&self, now: Instant) -> RateStanding {
        self.standing_of(&self.state(), now)
    }

    fn standing_of(&self, state: &State, now: Instant) -> RateStanding {
        let (backlog, heard_at) = state.backlog;
        let backlog_us = backlog.saturating_sub(now.saturating_duration_since(heard_at)).as_micros() as u64;
        let standing = RateStanding::from_backlog_us(self.shared, backlog_us);
        let permits = if now < state.permits_end { state.permits } else { 0 };
        RateStanding { rate: self.plan, remaining: standing.remaining.saturating_add(permits), ..standing }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole; a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many requests of a plan are refilled while a permit lives.
fn permits_per_life(rate: Rate) -> u32 {
    let per_life = u64::from(rate.per_second) * Rates::PERMIT_LIFE.as_millis() as u64;
    u32::try_from(per_life.div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSINESS: Rate = Rate { per_second: 1000, burst: 2000 };
    const HOBBYIST: Rate = Rate { per_second: 10, burst: 50 };

    fn meter(rate: Rate) -> Meter {
        Meter::new(rate, "bucket", true)
    }

    #[test]
    fn apart_from_the_locks_every_request_draws_its_permit() {
        let apart = |rate| (Meter::new(rate, "bucket", false), Instant::now());
        for (rate, wanted) in [(HOBBYIST, 1), (BUSINESS, 1)] {
            let (meter, now) = apart(rate);
            // It asks once more when it is its turn to draw.
            assert_eq!([meter.draw(now), meter.draw(now)], [Draw::Refill { wanted }; 2]);
            meter.fill(wanted, now);
            assert_eq!(meter.draw(now), Draw::Refill { wanted }, "it has paid for itself alone");
        }
        let (meter, now) = apart(BUSINESS);
        (0..5).for_each(|_| meter.fill(1, now));
        assert_eq!(meter.draw(now), Draw::Refill { wanted: 5 });
    }

    #[test]
    fn requests_go_on_for_a_second_when_a_bucket_apart_is_away() {
        for rate in [HOBBYIST, BUSINESS] {
            let meter = Meter::new(rate, "bucket", false);
            let now = Instant::now();
            assert!(meter.go_on_without(now));
            (0..5).for_each(|_| meter.fill(1, now));
            assert_eq!(meter.draw(now), Draw::Permit, "however many it used of late");
            assert_eq!(meter.draw(now + Duration::from_millis(999)), Draw::Permit);
            assert_eq!(meter.draw(now + Duration::from_secs(1)), Draw::Refill { wanted: 1 });
            assert!((0..rate.burst).all(|_| meter.ask(now).0.is_ok()));
            // One more may have been refilled meanwhile, or two.
            assert!((0..rate.burst).any(|_| meter.ask(now).0.is_err()), "no more than the plan's rate in this pod");
        }
        assert!(!meter(HOBBYIST).go_on_without(Instant::now()), "there the lock is away, too");
    }

    #[test]
    fn a_small_plan_pays_each_request_in_its_script_and_has_its_whole_burst() {
        let meter = meter(HOBBYIST);
        let now = Instant::now();
        assert!((0..100).all(|_| meter.draw(now) == Draw::PayInScript));
        assert_eq!(meter.due().rate, HOBBYIST);
    }

    #[test]
    fn a_large_plan_draws_permits_by_what_it_used_of_late() {
        let meter = meter(BUSINESS);
        let start = Instant::now();
        assert_eq!(meter.due().rate.burst, 1900, "100 are refilled while a permit lives");
        assert!((0..16).all(|_| meter.draw(start) == Draw::PayInScript), "used little, a command would be wasted");
        assert_eq!(meter.draw(start), Draw::Refill { wanted: 16 });

        meter.fill(16, start);
        assert!((0..15).all(|_| meter.draw(start) == Draw::Permit));
        assert_eq!(meter.draw(start), Draw::Refill { wanted: 32 });

        meter.fill(32, start);
        let later = start + Rates::PERMIT_LIFE;
        assert_ne!(meter.draw(later), Draw::Permit, "a permit lives no longer");
        assert_eq!(meter.draw(later + Rates::PERMIT_LIFE * 3), Draw::PayInScript, "quiet again");
    }

    #[test]
    fn what_was_used_just_before_counts() {
        let meter = meter(BUSINESS);
        let start = Instant::now();
        for _ in 0..20 {
            meter.draw(start);
        }
        let just_after = start + Rates::PERMIT_LIFE;
        assert!(matches!(meter.draw(just_after), Draw::Refill { .. }), "as many may come again");
        let long_after = just_after + Rates::PERMIT_LIFE * 2;
        assert_eq!(meter.draw(long_after), Draw::PayInScript);
    }

    #[test]
    fn permits_in_hand_remain_until_they_end() {
        let meter = meter(BUSINESS);
        let now = Instant::now();
        let before = now.checked_sub(Rates::PERMIT_LIFE).unwrap();
        meter.settle(RateStanding::from_backlog_us(meter.due().rate, 0), None, now);
        let without = meter.standing(now).remaining;
        meter.fill(8, now);
        assert_eq!(meter.standing(now).remaining, without + 7, "one of them is taken by who drew them");
        meter.fill(8, before);
        assert_eq!(meter.standing(now).remaining, without);
    }

    #[test]
    fn no_more_is_drawn_at_once_than_is_refilled_while_a_permit_lives() {
        let meter = meter(BUSINESS);
        let now = Instant::now();
        for _ in 0..500 {
            meter.fill(1, now);
        }
        assert_eq!(meter.draw(now), Draw::Refill { wanted: 100 });
    }

    #[test]
    fn an_account_over_its_rate_is_refused_without_asking() {
        let meter = meter(HOBBYIST);
        assert!((0..50).all(|_| meter.ask(Instant::now()).0.is_ok()), "the burst");
        assert!(meter.ask(Instant::now()).0.is_err_and(|wait| wait <= Duration::from_millis(100)));

        let other = self::meter(HOBBYIST);
        let now = Instant::now();
        other.settle(RateStanding::from_backlog_us(HOBBYIST, 5_000_000), Some(Duration::from_secs(1)), now);
        assert_eq!(other.ask(now).0, Err(Duration::from_secs(1)), "refused over all pods");
    }
}
