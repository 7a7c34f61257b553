use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// How long a grant lasts unless renewed, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lease(u64);

/// The reason for which a text is not a valid duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("a duration is a whole number of seconds (90) or a number with a unit (1500ms, 90s, 5m, 2h, 1d)")]
    Malformed,
    #[error("a duration has at most three decimals, and none in milliseconds")]
    TooFine,
    #[error("a duration is at most {} hours", DURATION_MS_MAX / 3_600_000)]
    TooLong,
}

/// The longest duration that the parser accepts: a year. Each use has its own limit.
pub const DURATION_MS_MAX: u64 = 8784 * 3_600_000;

impl Lease {
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1000)
    }

    pub const fn as_ms(self) -> u64 {
        self.0
    }

    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

/// The shortest text that [`parse_duration_ms`] parses to the same value.
impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0s"),
            ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 && ms > 60_000 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// Parses a duration, in milliseconds.
///
/// # Errors
/// The text is neither a whole number of seconds nor a number with one of the units `ms`,
/// `s`, `m`, `h`, `d`; it has more than three decimals, or any in milliseconds; or the
/// duration is longer than a year.
pub fn parse_duration_ms(text: &str) -> Result<u64, DurationError> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "" if number.contains('.') => return Err(DurationError::Malformed),
        "" | "s" => 1000,
        "ms" => 1,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(DurationError::Malformed),
    };
    let (whole, decimals) = match number.split_once('.') {
        Some((whole, decimals)) if !decimals.is_empty() => (whole, decimals),
        Some(_) => return Err(DurationError::Malformed),
        None => (number, ""),
    };
    if whole.is_empty() || decimals.contains('.') {
        return Err(DurationError::Malformed);
    }
    // Three decimals of every other unit are whole milliseconds.
    if decimals.len() > 3 || (unit == "ms" && !decimals.is_empty()) {
        return Err(DurationError::TooFine);
    }
    // Eleven digits keep every product below within 64 bits, and exceed the longest duration.
    let whole = whole.trim_start_matches('0');
    if whole.len() > 11 {
        return Err(DurationError::TooLong);
    }
    let number = |digits: &str| digits.bytes().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let thousandths = number(decimals) * 10_u64.pow(3 - decimals.len() as u32);
    let ms = number(whole) * unit_ms + thousandths * unit_ms / 1000;
    if ms > DURATION_MS_MAX {
        return Err(DurationError::TooLong);
    }
    Ok(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_have_a_unit() {
        let cases = [
            ("90", 90_000),
            ("0", 0),
            ("1500ms", 1500),
            ("90s", 90_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
            ("0.25s", 250),
            ("1.005d", 86_832_000),
            ("007", 7000),
            ("8784h", 31_622_400_000),
            ("31622400000ms", 31_622_400_000),
        ];
        for (text, ms) in cases {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text:?}");
        }
    }

    #[test]
    fn invalid_durations_are_rejected() {
        for text in ["", "s", ".", "1.", "1.s", ".5s", "1.5", "-1", "+1", "1 s", "1e3", "5min", "1.2.3s", "٣", "1S"] {
            assert_eq!(parse_duration_ms(text), Err(DurationError::Malformed), "{text:?}");
        }
        assert_eq!(parse_duration_ms("1.5ms"), Err(DurationError::TooFine));
        assert_eq!(parse_duration_ms("0.0001s"), Err(DurationError::TooFine));
        assert_eq!(parse_duration_ms("1.0ms"), Err(DurationError::TooFine));
        assert_eq!(parse_duration_ms("0.1250h"), Err(DurationError::TooFine));
        for text in ["8785h", "99999999999h", "999999999999999999999999999999"] {
            assert_eq!(parse_duration_ms(text), Err(DurationError::TooLong), "{text:?}");
        }
    }

    #[test]
    fn displayed_leases_parse_back() {
        for (ms, text) in [(0, "0s"), (1500, "1500ms"), (60_000, "60s"), (300_000, "5m"), (86_400_000, "24h")] {
            assert_eq!(Lease::from_ms(ms).to_string(), text);
            assert_eq!(parse_duration_ms(text), Ok(ms));
        }
    }
}
