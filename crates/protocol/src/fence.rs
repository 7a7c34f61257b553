use std::{fmt, str::FromStr};

use serde::Serialize;

/// A fencing token: strictly larger for every new grant of a lock, so that a resource that
/// remembers the largest one can reject requests of former holders.
///
/// It is a hybrid logical clock: the time in microseconds, or the last token plus one,
/// whichever is larger (Kulkarni et al., "Logical Physical Clocks", 2014). It stays below
/// 2^53 until the year 2255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct FencingToken(u64);

/// The text is not a fencing token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fencing token is a whole number from 1 to 9007199254740991")]
pub struct FencingTokenError;

impl FencingToken {
    /// The largest integer that every JSON reader holds exactly: 2^53 - 1.
    pub const MAX: u64 = (1 << 53) - 1;

    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for FencingToken {
    type Err = FencingTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(FencingTokenError);
        }
        match text.parse() {
            Ok(n @ 1..=Self::MAX) => Ok(Self(n)),
            _ => Err(FencingTokenError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fencing_tokens_are_positive_integers_that_json_holds_exactly() {
        assert_eq!("9007199254740991".parse(), Ok(FencingToken(FencingToken::MAX)));
        for text in ["", "0", "-1", "+1", "1.0", "9007199254740992", "99999999999999999999"] {
            assert_eq!(text.parse::<FencingToken>(), Err(FencingTokenError), "{text:?}");
        }
    }
}
