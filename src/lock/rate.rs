use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// The request rate of an account, for all of its tokens together. A generic cell rate
/// algorithm (ITU-T I.371) admits `burst` requests at once and refills `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

impl Rate {
    /// The largest rate of a plan: one request per microsecond, the unit of the shared limiter.
    pub const PER_SECOND_MAX: u32 = 1_000_000;
    /// The largest burst of a plan.
    pub const BURST_MAX: u32 = 10_000_000;

    /// The refill time of one request, in microseconds.
    pub fn interval_us(self) -> f64 {
        1e6 / f64::from(self.per_second)
    }

    /// The refill time of a whole burst.
    pub fn refill(self) -> Duration {
        Duration::from_secs_f64(f64::from(self.burst) / f64::from(self.per_second))
    }
}

/// The rate bucket that a script charges for the request that it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateBucket {
    /// The Redis key of the bucket: one per account.
    pub key: Arc<str>,
    pub rate: Rate,
}

/// How a request is charged to its account's rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateCharge {
    /// Already charged, with a credit of this server.
    Done,
    /// The script that serves the request charges it, or refuses it.
    InScript(RateBucket),
}

/// The rate status of an account after a request, for the `RateLimit` header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateStatus {
    pub rate: Rate,
    /// The number of requests that are admitted now.
    pub remaining: u32,
    /// The time until the whole burst is refilled.
    pub reset: Duration,
}

impl RateStatus {
    /// Computes the status from the backlog of the shared limiter: the distance of its
    /// theoretical arrival time from now, in microseconds.
    pub fn from_backlog_us(rate: Rate, backlog_us: u64) -> Self {
        let interval_us = rate.interval_us();
        let burst_us = f64::from(rate.burst) * interval_us;
        // Half a microsecond compensates for the rounding of the stored time.
        let free = (burst_us - backlog_us as f64 + 0.5) / interval_us;
        Self { rate, remaining: free.max(0.0) as u32, reset: Duration::from_micros(backlog_us) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backlog_determines_remaining_requests() {
        let rate = Rate { per_second: 10, burst: 50 };
        for (backlog_us, remaining) in [(0, 50), (100_000, 49), (4_950_000, 0), (5_000_000, 0), (9_000_000, 0)] {
            assert_eq!(RateStatus::from_backlog_us(rate, backlog_us).remaining, remaining, "{backlog_us}");
        }
    }
}
