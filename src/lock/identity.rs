use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An account: the first half of a holder's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountId(pub Uuid);

/// The last digits of a token's id. They distinguish tokens with the same label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenEnd([u8; TokenEnd::DIGITS]);

/// The id of one acquire attempt. With it a server can revert a grant whose response was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(u64);

impl TokenEnd {
    /// The number of hexadecimal digits. Every held lock stores them.
    pub const DIGITS: usize = 6;

    pub fn of(token: Uuid) -> Self {
        const HEX: [u8; 16] = *b"0123456789abcdef";
        let [.., a, b, c] = *token.as_bytes();
        let digit = |value: u8| HEX.get(usize::from(value & 15)).copied().unwrap_or_default();
        Self([digit(a >> 4), digit(a), digit(b >> 4), digit(b), digit(c >> 4), digit(c)])
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Attempt {
    /// A random attempt. It is not a secret, so it avoids the system call of the system's
    /// random source.
    pub fn new() -> Self {
        Self(fastrand::u64(..))
    }

    /// Eleven characters of base64url.
    pub fn key_text(self) -> KeyText<11> {
        KeyText::of(&self.0.to_be_bytes())
    }
}

impl Default for Attempt {
    fn default() -> Self {
        Self::new()
    }
}

impl AccountId {
    /// The form in Redis: 22 characters of base64url.
    pub fn key_text(self) -> KeyText<22> {
        KeyText::of(self.0.as_bytes())
    }
}

/// A short text without a heap allocation that is safe in keys, values and URLs.
#[derive(Clone, Copy)]
pub struct KeyText<const CHARS: usize>([u8; CHARS]);

impl<const CHARS: usize> KeyText<CHARS> {
    /// Encodes the bytes as base64url; their number must give `CHARS` characters.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut text = [0; CHARS];
        // Fails only for a wrong number of bytes.
        let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text);
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The form in Redis.
impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key_text().as_str())
    }
}

/// The text is not an account id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text is not an account id")]
pub struct AccountIdError;

impl FromStr for AccountId {
    type Err = AccountIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        from_key_text(text).map(Self).ok_or(AccountIdError)
    }
}

/// Eleven characters, enough to distinguish the attempts on one lock.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key_text().as_str())
    }
}

pub(super) fn from_key_text(text: &str) -> Option<Uuid> {
    Uuid::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_end_is_the_end_of_the_uuid_text() {
        let id = Uuid::new_v4();
        assert!(id.to_string().ends_with(TokenEnd::of(id).as_str()), "{id}");
        assert_eq!(TokenEnd::of(id).as_str().len(), TokenEnd::DIGITS);
    }

    #[test]
    fn account_text_parses_back() {
        let account = AccountId(Uuid::new_v4());
        assert_eq!(account.to_string().parse(), Ok(account));
        assert_eq!(account.to_string().len(), 22);
        assert_eq!(Attempt::new().to_string().len(), 11);
        assert_ne!(Attempt::new(), Attempt::new());
    }
}
