use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::identity::KeyText;

/// A namespace of lock names: the public one, which all accounts share, or a private one of
/// a single account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    pub id: NamespaceId,
    /// Unique within the account; the public one is called `public`.
    pub name: String,
}

/// The permanent id of a namespace, independent of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceId {
    Public,
    Private(Uuid),
}

/// The text is not a valid name of a private namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a namespace name has 1 to 63 lower-case letters, digits and inner hyphens, and is not \"public\"")]
pub struct NamespaceError;

impl Namespace {
    /// The name of the public namespace.
    pub const PUBLIC: &'static str = "public";
    /// The longest name of a private namespace, that of a DNS label.
    pub const NAME_BYTES_MAX: usize = 63;

    /// The namespace that all accounts share.
    pub fn public() -> Self {
        Self { id: NamespaceId::Public, name: Self::PUBLIC.into() }
    }

    /// Checks a name for a new private namespace.
    ///
    /// # Errors
    /// The name is reserved, too long, or has characters other than `a-z`, `0-9` and inner
    /// hyphens.
    pub fn check_private_name(name: &str) -> Result<(), NamespaceError> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_valid = !name.is_empty()
            && name.len() <= Self::NAME_BYTES_MAX
            && name.chars().all(inner)
            && !name.starts_with('-')
            && !name.ends_with('-')
            && name != Self::PUBLIC;
        is_valid.then_some(()).ok_or(NamespaceError)
    }
}

impl NamespaceId {
    /// The form in keys and in SQL: `-` or 22 characters of base64url.
    pub fn key_text(self) -> NamespaceText {
        NamespaceText(match self {
            Self::Public => None,
            Self::Private(id) => Some(KeyText::of(id.as_bytes())),
        })
    }
}

/// The text of a namespace id, without a heap allocation.
pub struct NamespaceText(Option<KeyText<22>>);

impl NamespaceText {
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("-", KeyText::as_str)
    }
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key_text().as_str())
    }
}

impl FromStr for NamespaceId {
    type Err = NamespaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "-" => Ok(Self::Public),
            _ => super::identity::from_key_text(text).map(Self::Private).ok_or(NamespaceError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_names_are_dns_labels() {
        for name in ["a", "team-1", "9", &"x".repeat(63)] {
            assert_eq!(Namespace::check_private_name(name), Ok(()), "{name:?}");
        }
        for name in ["", "public", "-a", "a-", "A", "a_b", "a/b", "ä", &"x".repeat(64)] {
            assert_eq!(Namespace::check_private_name(name), Err(NamespaceError), "{name:?}");
        }
    }

    #[test]
    fn namespace_id_text_parses_back() {
        for id in [NamespaceId::Public, NamespaceId::Private(Uuid::new_v4())] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
