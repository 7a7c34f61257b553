//! The texts that a request names: the owner, the note, the information for programs.

use serde::{Deserialize, Serialize};

use crate::text::{is_invisible, is_unprintable};

/// An owner: the second half of a holder's identity, such as a CI job within the account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner(String);

/// A grant's text for people: "build 1234, by ana".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note(String);

/// A grant's text for programs, which the server returns unchanged: Terraform's `LockInfo`.
/// One line; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info(String);

/// The name that an account gave a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Label(String);

/// The rule that a text violates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("it is empty")]
    Empty,
    #[error("it has {bytes} bytes; the limit is {max}")]
    TooLong { bytes: usize, max: usize },
    #[error("it has {chars} characters; the limit is {max}")]
    TooManyChars { chars: usize, max: usize },
    #[error("it has a character that is not allowed (U+{code:04X})", code = u32::from(*.0))]
    Forbidden(char),
}

impl Owner {
    /// The longest owner, in characters.
    pub const CHARS_MAX: usize = 128;
    pub const BYTES_MAX: usize = 256;

    /// Checks that the text is 1 to 128 visible characters in at most 256 bytes.
    ///
    /// # Errors
    /// The text is empty, too long, or has white space, a control or an invisible character.
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

    /// Checks that the text is one line of at most 500 bytes.
    ///
    /// # Errors
    /// The text is too long, or has a control character or one that reorders text.
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

    /// Checks that the text is one line of at most 2 KiB.
    ///
    /// # Errors
    /// The text is too long or has a control character.
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

    /// Checks that the text is one line of 1 to 128 bytes.
    ///
    /// # Errors
    /// The text is empty, too long, or has a control character or one that reorders text.
    pub fn parse(text: impl Into<String>) -> Result<Self, TextError> {
        checked(text.into(), 1, Self::BYTES_MAX, is_unprintable).map(Self)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
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
    fn owners_are_visible_and_at_most_128_characters_and_256_bytes() {
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
    fn notes_are_one_line_of_at_most_500_bytes() {
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
}
