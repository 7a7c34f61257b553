use std::{ops::RangeInclusive, time::Duration};

use crate::boot_time::BootTime;

/// What the clock said by which leases last, between two moments on one that
/// nobody can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Microseconds since 1970.
    pub(super) said_us: u64,
    asked: BootTime,
    heard: BootTime,
}

impl Reading {
    /// By how much a clock may leap unnoticed: a leap second.
    pub(super) const LEAP_MAX: Duration = Duration::from_secs(1);
    /// How much faster or slower than another a clock may run, as one part in so many:
    /// as much as NTP has a clock run at most, 500 ppm.
    const DRIFT: u64 = 2000;

    /// What was said just now, and `asked` for then.
    pub(super) fn new(said_us: u64, asked: BootTime) -> Self {
        Self { said_us, asked, heard: BootTime::now() }
    }

    /// How long ago it was heard, in microseconds.
    pub(super) fn age_us(&self) -> u64 {
        self.heard.elapsed().as_micros() as u64
    }

    /// The leap of the clock since `before`, if that is surely more than `leap_max` and
    /// drift: however long either answer was on its way, and however long ago that was.
    pub(super) fn leap(&self, before: &Self, leap_max: Duration) -> Option<Leap> {
        let passed_us = self.said_us as i64 - before.said_us as i64;
        let most_us = self.heard.since(before.asked).as_micros() as i64;
        let least_us = self.asked.since(before.heard).as_micros() as i64;
        let leap_us = (passed_us - most_us).max(0) + (passed_us - least_us).min(0);
        let drift_us = most_us.unsigned_abs() / Self::DRIFT;
        let bound_us = leap_max.as_micros() as u64 + drift_us;
        (leap_us.unsigned_abs() > bound_us).then(|| Leap {
            seconds: leap_us as f64 / 1e6,
            before_us: before.said_us..=before.said_us + most_us.unsigned_abs() + drift_us,
        })
    }
}

/// A clock was set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Leap {
    /// By how much, ahead or back.
    pub(super) seconds: f64,
    /// What the clock can have said between the two readings before it was set, in
    /// microseconds since 1970.
    pub(super) before_us: RangeInclusive<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(time_ms: u64, asked_ms: u64, heard_ms: u64) -> Reading {
        let moment = |ms| BootTime::from_nanos(Duration::from_millis(ms).as_nanos() as u64);
        Reading { said_us: time_ms * 1000, asked: moment(asked_ms), heard: moment(heard_ms) }
    }

    #[test]
    fn a_leap_is_one_whatever_the_delay() {
        let before = said(10_000, 0, 100);
        let leap = |reading: Reading| reading.leap(&before, Reading::LEAP_MAX).map(|leap| leap.seconds);
        assert_eq!(leap(said(11_000, 1000, 1001)), None);
        assert_eq!(leap(said(12_000, 1000, 1001)), None, "not more than is allowed");
        assert_eq!(leap(said(13_000, 1000, 1001)), Some(1.999));
        assert_eq!(leap(said(9_000, 1000, 1001)), Some(-1.9));
        assert_eq!(leap(said(9_900, 1000, 1001)), None);
        // The answer was on its way for long, or whoever asked stood still.
        assert_eq!(leap(said(11_000, 1000, 9000)), None);
        assert_eq!(leap(said(19_000, 1000, 9000)), None);
        // Clocks drift apart while nobody compares them.
        let hours_ms = 10 * 3_600_000;
        assert_eq!(leap(said(10_000 + hours_ms + 15_000, hours_ms, hours_ms)), None);
        assert!(leap(said(10_000 + hours_ms + 40_000, hours_ms, hours_ms)).is_some());
    }

    #[test]
    fn what_began_before_a_leap_is_told_from_what_began_after_it() {
        let before = said(10_000, 0, 100);
        let leap = said(31_000, 1000, 1001).leap(&before, Reading::LEAP_MAX).unwrap();
        assert_eq!(leap.before_us, 10_000_000..=11_001_500);
    }
}
