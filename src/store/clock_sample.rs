use std::{ops::RangeInclusive, time::Duration};

use lockable_boot_time::BootTime;

/// One reading of the store's clock, which times all leases, bracketed by two readings of
/// [`BootTime`], which cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockSample {
    /// Microseconds since 1970.
    pub(super) time_us: u64,
    sent_at: BootTime,
    received_at: BootTime,
}

impl ClockSample {
    /// The largest clock jump that is ignored: a leap second.
    pub(super) const JUMP_MAX: Duration = Duration::from_secs(1);
    /// The largest drift between two clocks, as a divisor: NTP slews a clock by at most
    /// 500 ppm.
    const DRIFT: u64 = 2000;

    /// A sample that was requested at `sent_at` and has just arrived.
    pub(super) fn new(time_us: u64, sent_at: BootTime) -> Self {
        Self { time_us, sent_at, received_at: BootTime::now() }
    }

    /// The time in microseconds since the sample arrived.
    pub(super) fn age_us(&self) -> u64 {
        self.received_at.elapsed().as_micros() as u64
    }

    /// The jump of the clock since `before`, if it exceeds `jump_max` and drift for every
    /// possible delay of the two replies.
    pub(super) fn jump(&self, before: &Self, jump_max: Duration) -> Option<ClockJump> {
        let advanced_us = self.time_us as i64 - before.time_us as i64;
        let longest_us = self.received_at.since(before.sent_at).as_micros() as i64;
        let shortest_us = self.sent_at.since(before.received_at).as_micros() as i64;
        let jump_us = (advanced_us - longest_us).max(0) + (advanced_us - shortest_us).min(0);
        let drift_us = longest_us.unsigned_abs() / Self::DRIFT;
        let bound_us = jump_max.as_micros() as u64 + drift_us;
        (jump_us.unsigned_abs() > bound_us).then(|| ClockJump {
            seconds: jump_us as f64 / 1e6,
            before_us: before.time_us..=before.time_us + longest_us.unsigned_abs() + drift_us,
        })
    }
}

/// A clock was set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ClockJump {
    /// By how much: positive for ahead, negative for back.
    pub(super) seconds: f64,
    /// The values that the clock may have shown between the two samples before it was set, in
    /// microseconds since 1970.
    pub(super) before_us: RangeInclusive<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(time_ms: u64, sent_ms: u64, received_ms: u64) -> ClockSample {
        let boot_time = |ms| BootTime::from_nanos(Duration::from_millis(ms).as_nanos() as u64);
        ClockSample { time_us: time_ms * 1000, sent_at: boot_time(sent_ms), received_at: boot_time(received_ms) }
    }

    #[test]
    fn jump_is_detected_despite_reply_delay() {
        let before = sample(10_000, 0, 100);
        let jump = |sample: ClockSample| sample.jump(&before, ClockSample::JUMP_MAX).map(|jump| jump.seconds);
        assert_eq!(jump(sample(11_000, 1000, 1001)), None);
        assert_eq!(jump(sample(12_000, 1000, 1001)), None, "within the limit");
        assert_eq!(jump(sample(13_000, 1000, 1001)), Some(1.999));
        assert_eq!(jump(sample(9_000, 1000, 1001)), Some(-1.9));
        assert_eq!(jump(sample(9_900, 1000, 1001)), None);
        // The reply was delayed, or the server was paused.
        assert_eq!(jump(sample(11_000, 1000, 9000)), None);
        assert_eq!(jump(sample(19_000, 1000, 9000)), None);
        // Clocks drift apart between two samples.
        let hours_ms = 10 * 3_600_000;
        assert_eq!(jump(sample(10_000 + hours_ms + 15_000, hours_ms, hours_ms)), None);
        assert!(jump(sample(10_000 + hours_ms + 40_000, hours_ms, hours_ms)).is_some());
    }

    #[test]
    fn jump_bounds_clock_values_before_it() {
        let before = sample(10_000, 0, 100);
        let jump = sample(31_000, 1000, 1001).jump(&before, ClockSample::JUMP_MAX).unwrap();
        assert_eq!(jump.before_us, 10_000_000..=11_001_500);
    }
}
