/// The name of the public namespace.
pub const PUBLIC_NAMESPACE: &str = "public";
/// The longest name of a private namespace, that of a DNS label.
pub const NAMESPACE_BYTES_MAX: usize = 63;

/// The text is not a valid name of a private namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a namespace name has 1 to 63 lower-case letters, digits and inner hyphens, and is not \"public\"")]
pub struct NamespaceError;

/// Checks a name for a new private namespace.
///
/// # Errors
/// The name is reserved, too long, or has characters other than `a-z`, `0-9` and inner
/// hyphens.
pub fn check_namespace_name(name: &str) -> Result<(), NamespaceError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_valid = !name.is_empty()
        && name.len() <= NAMESPACE_BYTES_MAX
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name != PUBLIC_NAMESPACE;
    is_valid.then_some(()).ok_or(NamespaceError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_names_are_dns_labels() {
        for name in ["a", "team-1", "9", &"x".repeat(63)] {
            assert_eq!(check_namespace_name(name), Ok(()), "{name:?}");
        }
        for name in ["", "public", "-a", "a-", "A", "a_b", "a/b", "ä", &"x".repeat(64)] {
            assert_eq!(check_namespace_name(name), Err(NamespaceError), "{name:?}");
        }
    }
}
