use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::text::{is_invisible, is_unprintable};

/// An account: the first half of who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountId(pub Uuid);

/// The second half of who holds a lock: one holder within the account, such as
/// a CI job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner(String);

/// What people should know about a grant: "build 1234, by ana".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note(String);

/// What a program has to say of its grant, in a form of its own that is handed
/// out as it came: Terraform's `LockInfo`. One line; empty for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info(String);

/// What a token is called by its account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Label(String);

/// The end of a token's id. Beside the label, which several tokens may have, it tells which
/// token has acquired a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenEnd([u8; TokenEnd::DIGITS]);

/// One try to acquire, so that a grant whose answer was lost can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(u64);

/// Why a text was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("it is empty")]
    Empty,
    #[error("it has {bytes} bytes, {max} at most are allowed")]
    TooLong { bytes: usize, max: usize },
    #[error("it has {chars} characters, {max} at most are allowed")]
    TooManyChars { chars: usize, max: usize },
    #[error("it has a character that is not allowed here (U+{code:04X})", code = u32::from(*.0))]
    Forbidden(char),
}

impl Owner {
    /// The longest owner, in characters.
    pub const CHARS_MAX: usize = 128;
    pub const BYTES_MAX: usize = 256;

    /// Checks that the text is 1 to 128 visible characters in at most 256 bytes.
    ///
    /// # Errors
    /// When it is empty, too long, or has white space, a control or an
    /// invisible character.
    pub fn parse(text: impl Into<String>) -> Result<Self, TextError> {
        let text = checked(text.into(), 1, Self::BYTES_MAX, is_invisible)?;
        match text.chars().count() {
            chars if chars > Self::CHARS_MAX => Err(TextError::TooManyChars { chars, max: Self::CHARS_MAX }),
            _ => Ok(Self(text)),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Note {
    /// The longest note.
    pub const BYTES_MAX: usize = 500;

    /// Checks that the text is up to 500 bytes that fit on one line.
    ///
    /// # Errors
    /// When it is too long or has a control or reordering character.
    pub fn parse(text: impl Into<String>) -> Result<Self, TextError> {
        checked(text.into(), 0, Self::BYTES_MAX, is_unprintable).map(Self)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Info {
    /// The longest info.
    pub const BYTES_MAX: usize = 2048;

    /// Checks that the text is up to 2 KiB that fit on one line.
    ///
    /// # Errors
    /// When it is too long or has a control character.
    pub fn parse(text: impl Into<String>) -> Result<Self, TextError> {
        checked(text.into(), 0, Self::BYTES_MAX, char::is_control).map(Self)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Label {
    /// The longest label.
    pub const BYTES_MAX: usize = 128;

    /// Checks that the text is 1 to 128 bytes that fit on one line.
    ///
    /// # Errors
    /// When it is empty, too long, or has a control or reordering character.
    pub fn parse(text: impl Into<String>) -> Result<Self, TextError> {
        checked(text.into(), 1, Self::BYTES_MAX, is_unprintable).map(Self)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TokenEnd {
    /// How many hexadecimal digits of the id. They stand in every lock that is held.
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
    /// A new attempt, unlike any other. It is no secret, so it need not come from
    /// the system's random source, for which the system would have to be called.
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
    /// The form that stands in Redis: 22 characters of base64url.
    pub fn key_text(self) -> KeyText<22> {
        KeyText::of(self.0.as_bytes())
    }
}

/// A short text that is safe in keys, values and URLs, and needs no memory of its
/// own.
#[derive(Clone, Copy)]
pub struct KeyText<const CHARS: usize>([u8; CHARS]);

impl<const CHARS: usize> KeyText<CHARS> {
    /// The bytes must be those that make so many characters of base64url.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut text = [0; CHARS];
        // It fails only for another number of bytes.
        let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text);
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The form that stands in Redis.
impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key_text().as_str())
    }
}

impl FromStr for AccountId {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        from_key_text(text).map(Self).ok_or(TextError::Empty)
    }
}

/// Eleven characters, enough to tell apart the attempts on one lock.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key_text().as_str())
    }
}

pub(super) fn from_key_text(text: &str) -> Option<Uuid> {
    Uuid::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

fn checked(text: String, min: usize, max: usize, forbidden: fn(char) -> bool) -> Result<String, TextError> {
    let bytes = text.len();
    if bytes < min {
        return Err(TextError::Empty);
    }
    if bytes > max {
        return Err(TextError::TooLong { bytes, max });
    }
    match text.chars().find(|c| forbidden(*c)) {
        Some(c) => Err(TextError::Forbidden(c)),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_token_is_that_of_its_id_as_it_is_written() {
        let id = Uuid::new_v4();
        assert!(id.to_string().ends_with(TokenEnd::of(id).as_str()), "{id}");
        assert_eq!(TokenEnd::of(id).as_str().len(), TokenEnd::DIGITS);
    }

    #[test]
    fn an_owner_is_visible_and_at_most_128_characters_and_256_bytes() {
        assert!(Owner::parse("gitlab-job/4711").is_ok());
        assert!(Owner::parse("é".repeat(128)).is_ok());
        assert_eq!(Owner::parse(""), Err(TextError::Empty));
        assert_eq!(Owner::parse("x".repeat(129)), Err(TextError::TooManyChars { chars: 129, max: 128 }));
        assert_eq!(Owner::parse("→".repeat(86)), Err(TextError::TooLong { bytes: 258, max: 256 }));
        for c in [' ', '\n', '\u{200B}', '\u{202E}', '\u{FEFF}'] {
            assert_eq!(Owner::parse(format!("a{c}b")), Err(TextError::Forbidden(c)));
        }
    }

    #[test]
    fn a_note_is_one_line_of_at_most_500_bytes() {
        assert!(Note::parse("build 1234, by ana").is_ok());
        assert!(Note::parse("").is_ok());
        assert!(Note::parse("n".repeat(500)).is_ok());
        assert_eq!(Note::parse("n".repeat(501)), Err(TextError::TooLong { bytes: 501, max: 500 }));
        assert_eq!(Note::parse("ü".repeat(251)), Err(TextError::TooLong { bytes: 502, max: 500 }));
        assert!(Info::parse("ü".repeat(1024)).is_ok());
        assert_eq!(Info::parse("i".repeat(2049)), Err(TextError::TooLong { bytes: 2049, max: 2048 }));
        for c in ['\n', '\u{7}', '\u{202E}', '\u{2066}', '\u{2028}', '\u{2029}'] {
            assert_eq!(Note::parse(format!("a{c}b")), Err(TextError::Forbidden(c)));
        }
    }

    #[test]
    fn an_account_survives_its_text() {
        let account = AccountId(Uuid::new_v4());
        assert_eq!(account.to_string().parse(), Ok(account));
        assert_eq!(account.to_string().len(), 22);
        assert_eq!(Attempt::new().to_string().len(), 11);
        assert_ne!(Attempt::new(), Attempt::new());
    }
}
