//! Times and durations formatted for people.

use std::fmt;

use jiff::Timestamp;

/// A time, shown in UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct DisplayTime(pub Timestamp);

impl DisplayTime {
    pub(super) fn from_ms(ms: i64) -> Self {
        Self(Timestamp::from_millisecond(ms).unwrap_or_default())
    }

    pub(super) fn now() -> Self {
        Self(Timestamp::now())
    }

    /// RFC 3339 with milliseconds, for programs.
    pub(super) fn rfc3339(&self) -> String {
        format!("{:.3}", self.0)
    }

    /// The duration between now and this time, in either direction.
    pub(super) fn distance_from_now(&self) -> String {
        format_duration(Timestamp::now().as_second().abs_diff(self.0.as_second()))
    }
}

impl fmt::Display for DisplayTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime("%Y-%m-%d %H:%M:%S UTC"))
    }
}

/// Formats a duration in its largest unit, rounded down.
pub(super) fn format_duration(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}
