use std::{
    fmt,
    sync::{Arc, LazyLock},
    thread,
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use tokio::{sync::Semaphore, task::spawn_blocking};
use unicode_normalization::UnicodeNormalization;

use super::AccountsError;

/// A password as typed. `Debug` masks it.
#[derive(Clone)]
pub struct Password(String);

/// Why a new password was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("a password has at least {min} characters; use several words", min = Password::CHARS_MIN)]
    TooShort,
    #[error("a password has at most {max} characters", max = Password::CHARS_MAX)]
    TooLong,
    /// It is among the first guesses of an attacker: listed words, sequences, repetitions, the
    /// account's own e-mail address.
    #[error("this password is easy to guess; use unrelated words")]
    Common,
}

impl Password {
    /// Minimum length in characters for a password without a second factor (NIST SP 800-63B-4,
    /// section 3.1.1.2).
    pub const CHARS_MIN: usize = 15;
    /// Maximum length in characters: a long input must not make hashing slow.
    pub const CHARS_MAX: usize = 256;
    /// Number of characters that are rated: the time of the rating grows much faster than the
    /// length if many characters can be substitutes for letters.
    const RATED_CHARS_MAX: usize = 32;
    /// Minimum of log10(guesses) by zxcvbn's estimate; weaker passwords count as common.
    const GUESSES_LOG10_MIN: f64 = 10.0;

    /// Normalizes the typed text to Unicode NFC: keyboards differ in how they compose characters.
    pub fn typed(text: &str) -> Self {
        Self(text.chars().take(Self::CHARS_MAX + 1).nfc().collect())
    }

    /// Checks a new password for the account with this e-mail address.
    fn check(&self, email: &str) -> Result<(), PasswordError> {
        let chars = self.0.chars().count();
        let rated: String = self.0.chars().take(Self::RATED_CHARS_MAX).collect();
        let account_words: Vec<&str> = email.split(['@', '.']).chain([email, "lockable"]).collect();
        if chars < Self::CHARS_MIN {
            Err(PasswordError::TooShort)
        } else if chars > Self::CHARS_MAX {
            Err(PasswordError::TooLong)
        } else if zxcvbn::zxcvbn(&rated, &account_words).guesses_log10() < Self::GUESSES_LOG10_MIN {
            Err(PasswordError::Common)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// Maximum number of concurrent hash computations: each takes 19 MiB and one core. Further ones
/// wait within their request's time limit.
static HASHING_PERMITS: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(thread::available_parallelism().map_or(2, usize::from))));

/// Hashes a new password: Argon2id, 19 MiB, two passes, one lane (the first choice of the OWASP
/// Password Storage Cheat Sheet).
///
/// # Errors
/// If the password is rejected.
pub(super) async fn hash(password: Password, email: &str) -> Result<String, AccountsError> {
    let email = email.to_owned();
    work(move || {
        password.check(&email)?;
        let hashed = Argon2::default().hash_password(password.0.as_bytes());
        // The only failure is a lack of system randomness.
        hashed.map(|hash| hash.to_string()).map_err(|_| AccountsError::Corrupt("a password"))
    })
    .await?
}

/// Verifies a password. Without a hash this takes as long: the time must not reveal whether the
/// account exists.
pub(super) async fn verify(password: Password, hash: Option<String>) -> Result<bool, AccountsError> {
    static DUMMY_HASH: LazyLock<String> = LazyLock::new(|| {
        let hash = Argon2::default().hash_password(b"no account has this password");
        hash.map(|hash| hash.to_string()).unwrap_or_default()
    });
    work(move || {
        let has_hash = hash.is_some();
        let hash = hash.as_deref().unwrap_or(&DUMMY_HASH);
        let is_match = PasswordHash::new(hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password.0.as_bytes(), &hash).is_ok());
        is_match && has_hash
    })
    .await
}

/// Runs a computation off the threads that serve requests.
async fn work<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> Result<T, AccountsError> {
    let permit = HASHING_PERMITS.clone().acquire_owned().await.map_err(|_| AccountsError::TooSlow)?;
    // The caller may be dropped; the computation continues and holds its permit.
    let worked = spawn_blocking(move || {
        let done = task();
        drop(permit);
        done
    });
    worked.await.map_err(|_| AccountsError::TooSlow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_passwords_are_rejected() {
        let check = |text: &str| Password::typed(text).check("ana.miller@example.com");
        assert_eq!(check("fourteen chars"), Err(PasswordError::TooShort));
        assert_eq!(check(&"x9 ".repeat(86)), Err(PasswordError::TooLong));
        for common in [
            "aaaaaaaaaaaaaaaaaaaa",
            "passwordpassword",
            "123456789012345",
            "qwertyuiopasdfghjkl",
            "ana.miller@example.com",
            "lockablelockable",
        ] {
            assert_eq!(check(common), Err(PasswordError::Common), "{common}");
        }
        for good in ["correct battery horse staple", "seven lanterns over Basel", "vier Äpfel im Schnee 12"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[tokio::test]
    async fn password_matches_its_hash_in_every_unicode_composition() {
        let hashed = hash(Password::typed("f\u{fc}nfzehn Zeichen!"), "ana@example.com").await.unwrap();
        assert!(hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hashed}");
        assert!(verify(Password::typed("fu\u{308}nfzehn Zeichen!"), Some(hashed.clone())).await.unwrap());
        assert!(!verify(Password::typed("funfzehn Zeichen!"), Some(hashed)).await.unwrap());
        assert!(!verify(Password::typed("no account has this password"), None).await.unwrap());
        assert_eq!(format!("{:?}", Password::typed("a")), "Password(***)");
    }
}
