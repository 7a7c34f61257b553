//! Times for people.

use std::fmt;

use jiff::Timestamp;

/// A moment, in UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(pub Timestamp);

impl Moment {
    pub(super) fn of_ms(ms: i64) -> Self {
        Self(Timestamp::from_millisecond(ms).unwrap_or_default())
    }

    pub(super) fn now() -> Self {
        Self(Timestamp::now())
    }

    /// For programs, with milliseconds.
    pub(super) fn exact(&self) -> String {
        format!("{:.3}", self.0)
    }

    /// How long ago it was, or how long it will be.
    pub(super) fn distance(&self) -> String {
        for_people(Timestamp::now().as_second().abs_diff(self.0.as_second()))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime("%Y-%m-%d %H:%M:%S UTC"))
    }
}

/// A length of time in its largest unit, rounded down.
pub(super) fn for_people(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}
