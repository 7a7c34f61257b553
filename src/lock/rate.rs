use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// How often an account may ask, with all its tokens together: a generic cell rate algorithm (ITU-T I.371) that
/// lets `burst` requests through at once and refills `per_second` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

impl Rate {
    /// The largest rate a plan can have: one request a microsecond, the unit in
    /// which the shared limiter counts.
    pub const PER_SECOND_MAX: u32 = 1_000_000;
    /// The largest burst a plan can have.
    pub const BURST_MAX: u32 = 10_000_000;

    /// The time in which one request is refilled, in microseconds.
    pub fn interval_us(self) -> f64 {
        1e6 / f64::from(self.per_second)
    }

    /// The time in which an exhausted burst is refilled whole.
    pub fn refill(self) -> Duration {
        Duration::from_secs_f64(f64::from(self.burst) / f64::from(self.per_second))
    }
}

/// A request that is still to be paid for, in the same script that serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateDue {
    /// Which bucket is charged: one per account.
    pub bucket: Arc<str>,
    pub rate: Rate,
}

/// Whether a request has been counted against its account's rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payment {
    /// It has, by a permit that the pod held.
    Paid,
    /// It has not: the script counts it, or refuses.
    Due(RateDue),
}

/// How an account stands with its rate after a request, for the `RateLimit` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateStanding {
    pub rate: Rate,
    /// How many requests could follow at once.
    pub remaining: u32,
    /// How long until the whole burst is there again.
    pub reset: Duration,
}

impl RateStanding {
    /// Reads the backlog of the shared limiter: how far its theoretical arrival
    /// time lies ahead, in microseconds.
    pub fn from_backlog_us(rate: Rate, backlog_us: u64) -> Self {
        let interval_us = rate.interval_us();
        let burst_us = f64::from(rate.burst) * interval_us;
        // Half a microsecond of slack takes up the rounding of the stored time.
        let free = (burst_us - backlog_us as f64 + 0.5) / interval_us;
        Self { rate, remaining: free.max(0.0) as u32, reset: Duration::from_micros(backlog_us) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_says_what_remains() {
        let rate = Rate { per_second: 10, burst: 50 };
        for (backlog_us, remaining) in [(0, 50), (100_000, 49), (4_950_000, 0), (5_000_000, 0), (9_000_000, 0)] {
            assert_eq!(RateStanding::from_backlog_us(rate, backlog_us).remaining, remaining, "{backlog_us}");
        }
    }
}
