use std::{fmt, str::FromStr};

use lockable_protocol::{NamespaceError, PUBLIC_NAMESPACE};
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

impl Namespace {
    /// The name of the public namespace.
    pub const PUBLIC: &'static str = PUBLIC_NAMESPACE;

    /// The namespace that all accounts share.
    pub fn public() -> Self {
        Self { id: NamespaceId::Public, name: Self::PUBLIC.into() }
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
    fn namespace_id_text_parses_back() {
        for id in [NamespaceId::Public, NamespaceId::Private(Uuid::new_v4())] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
