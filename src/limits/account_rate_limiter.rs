mod state;

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, clock::Clock};

use self::state::LimiterState;
use super::AccountRates;
use crate::lock::{Rate, RateBucket, RateStatus};

/// The local limiter of one account and class, and the last known state of the shared one.
pub struct AccountRateLimiter {
    plan: Rate,
    /// The rate of the shared limiter: the plan's rate, its burst reduced by a reserve for credits.
    shared: Rate,
    bucket_key: Arc<str>,
    /// Whether the scripts of the locks can charge the bucket, because it is in their hash slot.
    shares_slot_with_locks: bool,
    local: DefaultDirectRateLimiter,
    state: Mutex<LimiterState>,
    /// Held while credits are drawn.
    pub(super) draw_mutex: tokio::sync::Mutex<()>,
}

/// How a request is charged to the shared limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChargeMethod {
    /// It spent a credit of this server.
    Credit,
    /// The script that serves the request charges it.
    InScript,
    /// The server must draw this number of credits first.
    Draw { wanted: u32 },
}

impl AccountRateLimiter {
    /// The lowest rate, in requests a second, at which the server draws more than one credit at once.
    const CREDIT_RATE_MIN: u32 = 100;
    /// The number of requests in the last window from which credits save work: drawing them costs a
    /// command, and charging in the script of a lock costs none. The second figure applies to a bucket
    /// in another slot.
    const DEMAND_MIN: u32 = 16;
    const DEMAND_MIN_OTHER_SLOT: u32 = 4;
    /// The time for which an unreachable shared limiter is bypassed.
    const BYPASS: Duration = Duration::from_secs(1);

    pub(super) fn new(plan: Rate, bucket_key: impl Into<Arc<str>>, shares_slot_with_locks: bool) -> Self {
        let reserve = credits_per_ttl(plan);
        let uses_credits = plan.per_second >= Self::CREDIT_RATE_MIN && plan.burst >= reserve.saturating_mul(2);
        let shared = if uses_credits { Rate { burst: plan.burst - reserve, ..plan } } else { plan };
        let at_least_one = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(plan.per_second)).allow_burst(at_least_one(plan.burst));
        let now = Instant::now();
        let state = LimiterState::new(now);
        Self {
            plan,
            shared,
            bucket_key: bucket_key.into(),
            shares_slot_with_locks,
            local: DefaultDirectRateLimiter::direct(quota),
            state: Mutex::new(state),
            draw_mutex: tokio::sync::Mutex::default(),
        }
    }

    /// Checks a request without a call to Redis. Returns how to charge it, or the time to wait if the
    /// account has used up its rate in this server or, as last recorded, across all servers; and the
    /// rate status.
    pub(super) fn check(&self, now: Instant) -> (Result<ChargeMethod, Duration>, RateStatus) {
        let mut state = self.state();
        let checked = match self.refusal(&state, now) {
            Some(retry_after) => Err(retry_after),
            None => Ok(self.charge_with(&mut state, now)),
        };
        (checked, self.rate_status_with(&state, now))
    }

    fn refusal(&self, state: &LimiterState, now: Instant) -> Option<Duration> {
        if state.refused_until > now {
            return Some(state.refused_until - now);
        }
        let refused = self.local.check().err()?;
        Some(refused.wait_time_from(self.local.clock().now()))
    }

    /// Spends a credit, or returns how to charge the request without one.
    pub(super) fn charge(&self, now: Instant) -> ChargeMethod {
        self.charge_with(&mut self.state(), now)
    }

    fn charge_with(&self, state: &mut LimiterState, now: Instant) -> ChargeMethod {
        if self.shared == self.plan {
            return self.charge_one(state, now);
        }
        if now < state.credits_expire && state.credits > 0 {
            state.count(now);
            state.credits -= 1;
            return ChargeMethod::Credit;
        }
        match state.demand_at(now) {
            demand if demand < self.demand_min() => {
                let method = self.charge_one(state, now);
                if method == ChargeMethod::InScript {
                    state.count(now);
                }
                method
            }
            _ if now < state.bypassed_until => ChargeMethod::Credit,
            demand => ChargeMethod::Draw { wanted: demand.min(credits_per_ttl(self.plan)) },
        }
    }

    fn demand_min(&self) -> u32 {
        if self.shares_slot_with_locks { Self::DEMAND_MIN } else { Self::DEMAND_MIN_OTHER_SLOT }
    }

    /// Charges a single request, by its script where that is possible.
    fn charge_one(&self, state: &LimiterState, now: Instant) -> ChargeMethod {
        match self.shares_slot_with_locks {
            true => ChargeMethod::InScript,
            false if now < state.bypassed_until => ChargeMethod::Credit,
            false => ChargeMethod::Draw { wanted: 1 },
        }
    }

    /// Bypasses the shared limiter for [`Self::BYPASS`] if its bucket is in another slot than the
    /// locks: its node can be unreachable while the lock's node is not. Returns whether it does.
    pub(super) fn bypass_shared(&self, failed_at: Instant) -> bool {
        if !self.shares_slot_with_locks {
            self.state().bypassed_until = failed_at + Self::BYPASS;
        }
        !self.shares_slot_with_locks
    }

    /// Adds drawn credits, minus the one spent by the request that drew them.
    pub(super) fn add_credits(&self, credits: u32, drawn_at: Instant) {
        let mut state = self.state();
        state.count(drawn_at);
        state.credits = credits.saturating_sub(1);
        state.credits_expire = drawn_at + AccountRates::CREDIT_TTL;
    }

    pub(super) fn bucket(&self) -> RateBucket {
        RateBucket { key: self.bucket_key.clone(), rate: self.shared }
    }

    /// Records the status that the shared limiter returned, and the time to wait if it refused.
    pub fn record_shared(&self, rate_status: RateStatus, retry_after: Option<Duration>, now: Instant) {
        let mut state = self.state();
        state.backlog = (rate_status.reset, now);
        if let Some(retry_after) = retry_after {
            state.refused_until = now + retry_after;
        }
    }

    /// The rate status as known to this server: the last recorded one, plus the requests refilled since
    /// then and the unspent credits.
    pub fn rate_status(&self, now: Instant) -> RateStatus {
        self.rate_status_with(&self.state(), now)
    }

    fn rate_status_with(&self, state: &LimiterState, now: Instant) -> RateStatus {
        let (backlog, recorded_at) = state.backlog;
        let backlog_us = backlog.saturating_sub(now.saturating_duration_since(recorded_at)).as_micros() as u64;
        let rate_status = RateStatus::from_backlog_us(self.shared, backlog_us);
        let credits = if now < state.credits_expire { state.credits } else { 0 };
        RateStatus { rate: self.plan, remaining: rate_status.remaining.saturating_add(credits), ..rate_status }
    }

    fn state(&self) -> MutexGuard<'_, LimiterState> {
        // No update leaves the state inconsistent, so a poisoned mutex is safe to use.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The requests that a plan refills within the lifetime of a credit.
fn credits_per_ttl(rate: Rate) -> u32 {
    let per_ttl = u64::from(rate.per_second) * AccountRates::CREDIT_TTL.as_millis() as u64;
    u32::try_from(per_ttl.div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSINESS: Rate = Rate { per_second: 1000, burst: 2000 };
    const HOBBYIST: Rate = Rate { per_second: 10, burst: 50 };

    fn limiter(rate: Rate) -> AccountRateLimiter {
        AccountRateLimiter::new(rate, "bucket", true)
    }

    #[test]
    fn bucket_in_another_slot_draws_a_credit_for_every_request() {
        let in_other_slot = |rate| (AccountRateLimiter::new(rate, "bucket", false), Instant::now());
        for (rate, wanted) in [(HOBBYIST, 1), (BUSINESS, 1)] {
            let (limiter, now) = in_other_slot(rate);
            // A request charges again once it has the draw mutex.
            assert_eq!([limiter.charge(now), limiter.charge(now)], [ChargeMethod::Draw { wanted }; 2]);
            limiter.add_credits(wanted, now);
            assert_eq!(
                limiter.charge(now),
                ChargeMethod::Draw { wanted },
                "the only credit is spent by the drawing request"
            );
        }
        let (limiter, now) = in_other_slot(BUSINESS);
        (0..5).for_each(|_| limiter.add_credits(1, now));
        assert_eq!(limiter.charge(now), ChargeMethod::Draw { wanted: 5 });
    }

    #[test]
    fn unreachable_bucket_in_another_slot_is_bypassed_for_a_second() {
        for rate in [HOBBYIST, BUSINESS] {
            let limiter = AccountRateLimiter::new(rate, "bucket", false);
            let now = Instant::now();
            assert!(limiter.bypass_shared(now));
            (0..5).for_each(|_| limiter.add_credits(1, now));
            assert_eq!(limiter.charge(now), ChargeMethod::Credit, "regardless of demand");
            assert_eq!(limiter.charge(now + Duration::from_millis(999)), ChargeMethod::Credit);
            assert_eq!(limiter.charge(now + Duration::from_secs(1)), ChargeMethod::Draw { wanted: 1 });
            assert!((0..rate.burst).all(|_| limiter.check(now).0.is_ok()));
            // One or two requests may have been refilled meanwhile.
            assert!((0..rate.burst).any(|_| limiter.check(now).0.is_err()), "the local limiter still applies");
        }
        assert!(!limiter(HOBBYIST).bypass_shared(Instant::now()), "the lock is on the same node");
    }

    #[test]
    fn small_plan_charges_in_script_and_has_its_whole_burst() {
        let limiter = limiter(HOBBYIST);
        let now = Instant::now();
        assert!((0..100).all(|_| limiter.charge(now) == ChargeMethod::InScript));
        assert_eq!(limiter.bucket().rate, HOBBYIST);
    }

    #[test]
    fn large_plan_draws_as_many_credits_as_recent_requests() {
        let limiter = limiter(BUSINESS);
        let start = Instant::now();
        assert_eq!(limiter.bucket().rate.burst, 1900, "100 requests are refilled within one TTL");
        assert!(
            (0..16).all(|_| limiter.charge(start) == ChargeMethod::InScript),
            "too few requests to pay for a command"
        );
        assert_eq!(limiter.charge(start), ChargeMethod::Draw { wanted: 16 });

        limiter.add_credits(16, start);
        assert!((0..15).all(|_| limiter.charge(start) == ChargeMethod::Credit));
        assert_eq!(limiter.charge(start), ChargeMethod::Draw { wanted: 32 });

        limiter.add_credits(32, start);
        let later = start + AccountRates::CREDIT_TTL;
        assert_ne!(limiter.charge(later), ChargeMethod::Credit, "expired");
        assert_eq!(limiter.charge(later + AccountRates::CREDIT_TTL * 3), ChargeMethod::InScript, "no recent requests");
    }

    #[test]
    fn requests_of_the_previous_window_count_as_demand() {
        let limiter = limiter(BUSINESS);
        let start = Instant::now();
        for _ in 0..20 {
            limiter.charge(start);
        }
        let just_after = start + AccountRates::CREDIT_TTL;
        assert!(matches!(limiter.charge(just_after), ChargeMethod::Draw { .. }), "the previous window");
        let long_after = just_after + AccountRates::CREDIT_TTL * 2;
        assert_eq!(limiter.charge(long_after), ChargeMethod::InScript);
    }

    #[test]
    fn unspent_credits_count_as_remaining_until_they_expire() {
        let limiter = limiter(BUSINESS);
        let now = Instant::now();
        let before = now.checked_sub(AccountRates::CREDIT_TTL).unwrap();
        limiter.record_shared(RateStatus::from_backlog_us(limiter.bucket().rate, 0), None, now);
        let without = limiter.rate_status(now).remaining;
        limiter.add_credits(8, now);
        assert_eq!(limiter.rate_status(now).remaining, without + 7, "the drawing request spends one");
        limiter.add_credits(8, before);
        assert_eq!(limiter.rate_status(now).remaining, without);
    }

    #[test]
    fn one_draw_is_at_most_the_refill_of_one_ttl() {
        let limiter = limiter(BUSINESS);
        let now = Instant::now();
        for _ in 0..500 {
            limiter.add_credits(1, now);
        }
        assert_eq!(limiter.charge(now), ChargeMethod::Draw { wanted: 100 });
    }

    #[test]
    fn account_over_its_rate_is_refused_without_a_call_to_redis() {
        let limiter = limiter(HOBBYIST);
        assert!((0..50).all(|_| limiter.check(Instant::now()).0.is_ok()), "the burst");
        assert!(limiter.check(Instant::now()).0.is_err_and(|wait| wait <= Duration::from_millis(100)));

        let other = self::limiter(HOBBYIST);
        let now = Instant::now();
        other.record_shared(RateStatus::from_backlog_us(HOBBYIST, 5_000_000), Some(Duration::from_secs(1)), now);
        assert_eq!(other.check(now).0, Err(Duration::from_secs(1)), "rejected by the shared limiter");
    }
}
