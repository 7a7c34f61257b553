use std::time::{Duration, Instant};

use crate::limits::Rates;

/// What a meter remembers from one request to the next.
pub(super) struct State {
    pub(super) permits: u32,
    pub(super) permits_end: Instant,
    /// Until when the shared limiter is not asked, since it cannot be.
    pub(super) unasked_until: Instant,
    /// Until when the shared limiter refuses.
    pub(super) refused_until: Instant,
    /// The shared limiter's backlog, and when it was heard of.
    pub(super) backlog: (Duration, Instant),
    /// Requests in this window, and in the one before it.
    window: (Instant, u32),
    demand: u32,
}

impl State {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            permits: 0,
            permits_end: now,
            unasked_until: now,
            refused_until: now,
            backlog: (Duration::ZERO, now),
            window: (now, 0),
            demand: 0,
        }
    }

    pub(super) fn count(&mut self, now: Instant) {
        self.turn_window(now);
        self.window.1 = self.window.1.saturating_add(1);
    }

    pub(super) fn demand_at(&mut self, now: Instant) -> u32 {
        self.turn_window(now);
        self.demand.max(self.window.1)
    }

    /// Begins a new window if this one is over. What the one before saw counts
    /// only if it was just before.
    fn turn_window(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.window.0);
        if age >= Rates::PERMIT_LIFE {
            self.demand = if age < Rates::PERMIT_LIFE * 2 { self.window.1 } else { 0 };
            self.window = (now, 0);
        }
    }
}
