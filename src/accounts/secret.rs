use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The secret of a session or a link: 244 random bits. `Debug` masks it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Length of the text: lower-case hexadecimal digits.
    const DIGITS: usize = 64;

    /// Generates a secret from the operating system's random source.
    pub fn generate() -> Self {
        Self(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()))
    }

    /// Parses a secret; `None` if the format is wrong.
    pub fn parse(text: &str) -> Option<Self> {
        let is_valid = text.len() == Self::DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_valid.then(|| Self(text.to_owned()))
    }

    /// Returns the plain text, for its recipient.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Derives another secret for one purpose; it does not reveal this one.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Self {
        Self(hex(Sha256::new().chain_update(purpose).chain_update([0]).chain_update(&self.0)))
    }

    /// Compares in constant time.
    pub fn is(&self, text: &str) -> bool {
        let differing = self.0.bytes().zip(text.bytes()).fold(0, |bits, (a, b)| bits | (a ^ b));
        self.0.len() == text.len() && differing == 0
    }

    /// The stored form. The secret is random, so neither a salt nor a slow hash function would add
    /// security.
    pub(super) fn hash(&self) -> String {
        hex(Sha256::new().chain_update(&self.0))
    }
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_masked_and_parsed_from_its_text() {
        let secret = Secret::generate();
        assert_eq!(format!("{secret:?}"), "Secret(***)");
        assert_eq!(Secret::parse(secret.reveal()), Some(secret.clone()));
        assert!(secret.is(secret.reveal()));
        let derived = secret.derive("form");
        assert_eq!(derived, secret.derive("form"));
        assert_ne!(derived, secret.derive("another"));
        for text in ["", "0", derived.reveal()] {
            assert!(!secret.is(text), "{text}");
        }
        assert_eq!(Secret::parse(&secret.reveal().replace(|c: char| c.is_ascii_digit(), "g")), None);
    }
}
