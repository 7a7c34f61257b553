use redis::{RedisResult, aio::MultiplexedConnection};

use crate::moment::Moment;

/// What a server's clock said, between two moments on ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time {
    /// Microseconds since 1970.
    pub(super) said_us: u64,
    asked: Moment,
    heard: Moment,
}

impl Time {
    pub(super) async fn ask(connection: &mut MultiplexedConnection) -> RedisResult<Self> {
        let asked = Moment::now();
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
        Ok(Self { said_us: seconds * 1_000_000 + micros, asked, heard: Moment::now() })
    }

    /// By how many seconds the clock has leapt since `before`, if that is surely
    /// more than `leap_max_us`: however long either answer was on its way.
    pub(super) fn leap(&self, before: &Self, leap_max_us: u64) -> Option<f64> {
        let passed_us = self.said_us as i64 - before.said_us as i64;
        let most_us = self.heard.since(before.asked).as_micros() as i64;
        let least_us = self.asked.since(before.heard).as_micros() as i64;
        let leap_us = (passed_us - most_us).max(0) + (passed_us - least_us).min(0);
        (leap_us.unsigned_abs() > leap_max_us).then(|| leap_us as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn said(time_ms: u64, asked_ms: u64, heard_ms: u64) -> Time {
        let moment = |ms| Moment::from_nanos(Duration::from_millis(ms).as_nanos() as u64);
        Time { said_us: time_ms * 1000, asked: moment(asked_ms), heard: moment(heard_ms) }
    }

    #[test]
    fn a_leap_is_one_whatever_the_delay() {
        let before = said(10_000, 0, 100);
        let leap = |time: Time| time.leap(&before, 1_000_000);
        assert_eq!(leap(said(11_000, 1000, 1001)), None);
        assert_eq!(leap(said(12_000, 1000, 1001)), None, "not more than is allowed");
        assert_eq!(leap(said(13_000, 1000, 1001)), Some(1.999));
        assert_eq!(leap(said(9_000, 1000, 1001)), Some(-1.9));
        assert_eq!(leap(said(9_900, 1000, 1001)), None);
        // The answer was on its way for long, or whoever asked stood still.
        assert_eq!(leap(said(11_000, 1000, 9000)), None);
        assert_eq!(leap(said(19_000, 1000, 9000)), None);
    }
}
