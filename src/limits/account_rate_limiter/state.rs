use std::time::{Duration, Instant};

use crate::limits::AccountRates;

/// The mutable part of an [`super::AccountRateLimiter`].
pub(super) struct LimiterState {
    pub(super) credits: u32,
    pub(super) credits_expire: Instant,
    /// The shared limiter is bypassed until then, because it was unreachable.
    pub(super) bypassed_until: Instant,
    /// The shared limiter refuses until then.
    pub(super) refused_until: Instant,
    /// The shared limiter's backlog, and when it was recorded.
    pub(super) backlog: (Duration, Instant),
    /// The start of the current window, and its requests.
    window: (Instant, u32),
    /// The requests of the previous window.
    demand: u32,
}

impl LimiterState {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            credits: 0,
            credits_expire: now,
            bypassed_until: now,
            refused_until: now,
            backlog: (Duration::ZERO, now),
            window: (now, 0),
            demand: 0,
        }
    }

    pub(super) fn count(&mut self, now: Instant) {
        self.roll_window(now);
        self.window.1 = self.window.1.saturating_add(1);
    }

    pub(super) fn demand_at(&mut self, now: Instant) -> u32 {
        self.roll_window(now);
        self.demand.max(self.window.1)
    }

    /// Starts a new window if the current one is over. Its requests count as demand only if it ended
    /// within one window before now.
    fn roll_window(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.window.0);
        if age >= AccountRates::CREDIT_TTL {
            self.demand = if age < AccountRates::CREDIT_TTL * 2 { self.window.1 } else { 0 };
            self.window = (now, 0);
        }
    }
}
