use std::fmt;

use crate::text::{is_bidi_override, is_invisible};

/// The name of a lock, unique within its namespace and compared byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockName(String);

/// The rule that a lock name violates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the lock name is empty")]
    Empty,
    #[error("the lock name has {bytes} bytes; the limit is {max}", max = LockName::BYTES_MAX)]
    TooLong { bytes: usize },
    #[error("the lock name is not UTF-8")]
    NotUtf8,
    #[error("the lock name has a \"%\" without two hexadecimal digits after it (write a percent sign as %25)")]
    BadEscape,
    #[error("the lock name has a control character (U+{code:04X})", code = u32::from(*.0))]
    Control(char),
    #[error("the lock name has a character that reorders text (U+{code:04X})", code = u32::from(*.0))]
    BidiOverride(char),
    #[error("the lock name has an invisible character (U+{code:04X})", code = u32::from(*.0))]
    Invisible(char),
    #[error("the lock name begins or ends with white space")]
    OuterSpace,
    #[error("the lock name has an empty segment: \"/\" must not be first, last or doubled")]
    EmptySegment,
    #[error("the lock name has a segment \".\" or \"..\"")]
    DotSegment,
}

impl LockName {
    /// The longest name, in bytes of UTF-8.
    pub const BYTES_MAX: usize = 200;

    /// Checks the rules for lock names.
    ///
    /// # Errors
    /// The first rule that `name` violates.
    pub fn parse(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > Self::BYTES_MAX {
            return Err(NameError::TooLong { bytes: name.len() });
        }
        // Fast path: most names consist of these characters, and pass all other rules.
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return Ok(Self(name));
        }
        if let Some(c) = name.chars().find(|c| c.is_control()) {
            return Err(NameError::Control(c));
        }
        if let Some(c) = name.chars().find(|c| is_bidi_override(*c)) {
            return Err(NameError::BidiOverride(c));
        }
        if name.trim().len() != name.len() {
            return Err(NameError::OuterSpace);
        }
        // Two names that look the same must be the same.
        if let Some(c) = name.chars().find(|c| *c != ' ' && is_invisible(*c)) {
            return Err(NameError::Invisible(c));
        }
        for segment in name.split('/') {
            match segment {
                "" => return Err(NameError::EmptySegment),
                "." | ".." => return Err(NameError::DotSegment),
                _ => {}
            }
        }
        Ok(Self(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_names_are_not_changed() {
        for name in
            ["a", "acme-company-foo", "team/app/prod", "Ünïcødé", "a b", "...", "a/..b", "100%", &"x".repeat(200)]
        {
            assert_eq!(LockName::parse(name).map(|n| n.to_string()), Ok(name.to_string()));
        }
    }

    #[test]
    fn invalid_names_return_the_violated_rule() {
        let cases = [
            ("", NameError::Empty),
            (&*"é".repeat(101), NameError::TooLong { bytes: 202 }),
            ("a\0b", NameError::Control('\0')),
            ("a\u{85}b", NameError::Control('\u{85}')),
            ("a\u{202E}b", NameError::BidiOverride('\u{202E}')),
            (" a", NameError::OuterSpace),
            ("a\u{3000}", NameError::OuterSpace),
            ("inv\u{FEFF}", NameError::Invisible('\u{FEFF}')),
            ("in\u{200B}v", NameError::Invisible('\u{200B}')),
            ("a\u{A0}b", NameError::Invisible('\u{A0}')),
            ("a\u{FE0F}", NameError::Invisible('\u{FE0F}')),
            ("a\u{3164}", NameError::Invisible('\u{3164}')),
            ("a\u{2800}b", NameError::Invisible('\u{2800}')),
            ("/a", NameError::EmptySegment),
            ("a/", NameError::EmptySegment),
            ("a//b", NameError::EmptySegment),
            ("./a", NameError::DotSegment),
            ("a/../b", NameError::DotSegment),
        ];
        for (name, error) in cases {
            assert_eq!(LockName::parse(name), Err(error), "{name:?}");
        }
    }
}
