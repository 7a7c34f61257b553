use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What a browser or a link carries to show whose it is: 244 random bits. It does
/// not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// How it is written: lower-case hexadecimal digits.
    const DIGITS: usize = 64;

    /// A new one, from the operating system's random source.
    pub fn generate() -> Self {
        Self(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()))
    }

    /// Reads one, `None` if it cannot be any.
    pub fn parse(text: &str) -> Option<Self> {
        let is_sound = text.len() == Self::DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_sound.then(|| Self(text.to_owned()))
    }

    /// The secret in plain text, for the one who is given it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Another one for a certain use, from which this one cannot be found.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Self {
        Self(hex(Sha256::new().chain_update(purpose).chain_update([0]).chain_update(&self.0)))
    }

    /// Compares in a time that does not depend on where two differ.
    pub fn is(&self, text: &str) -> bool {
        let differing = self.0.bytes().zip(text.bytes()).fold(0, |bits, (a, b)| bits | (a ^ b));
        self.0.len() == text.len() && differing == 0
    }

    /// What is kept of it: it is random, so neither salt nor a slow function
    /// would make it harder to guess.
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
    fn a_secret_does_not_print_and_is_read_as_it_was_written() {
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
