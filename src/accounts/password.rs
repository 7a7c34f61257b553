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

/// A password as somebody has typed it. It does not print.
#[derive(Clone)]
pub struct Password(String);

/// Why a text cannot be anybody's new password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("a password has {min} characters at least; a few words in a row do", min = Password::CHARS_MIN)]
    TooShort,
    #[error("a password has {max} characters at most", max = Password::CHARS_MAX)]
    TooLong,
    /// It is among what is tried first: words of lists, sequences, repetitions,
    /// the account's own address.
    #[error("this password is among the first that are tried; choose words that do not belong together")]
    Common,
}

impl Password {
    /// The shortest, in characters, where nothing is asked for beside it (NIST
    /// SP 800-63B-4, section 3.1.1.2).
    pub const CHARS_MIN: usize = 15;
    /// The longest: hashing must not take longer for who sends more.
    pub const CHARS_MAX: usize = 256;
    /// How much of it is rated: what it takes to rate a text grows much faster than the
    /// text where it is full of substitutes for letters.
    const RATED_CHARS: usize = 32;
    /// With fewer guesses by zxcvbn's estimate than this power of ten, a password
    /// is as good as on a list.
    const GUESSES_LOG10_MIN: f64 = 10.0;

    /// What was typed, in the one form that Unicode has for it: keyboards differ
    /// in how they compose characters.
    pub fn typed(text: &str) -> Self {
        Self(text.chars().take(Self::CHARS_MAX + 1).nfc().collect())
    }

    /// Checks that it may be the new password of whoever has this address.
    fn check(&self, email: &str) -> Result<(), PasswordError> {
        let chars = self.0.chars().count();
        let rated: String = self.0.chars().take(Self::RATED_CHARS).collect();
        let known: Vec<&str> = email.split(['@', '.']).chain([email, "lockable"]).collect();
        if chars < Self::CHARS_MIN {
            Err(PasswordError::TooShort)
        } else if chars > Self::CHARS_MAX {
            Err(PasswordError::TooLong)
        } else if zxcvbn::zxcvbn(&rated, &known).guesses_log10() < Self::GUESSES_LOG10_MIN {
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

/// How many passwords are worked on at once: each takes 19 MiB and a core for a
/// while. More wait, within the time that their requests have.
static PLACES: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(thread::available_parallelism().map_or(2, usize::from))));

/// The hash of the new password of whoever has this address: Argon2id, 19 MiB, two
/// passes, one lane (the first choice of the OWASP Password Storage Cheat Sheet).
///
/// # Errors
/// When it cannot be anybody's.
pub(super) async fn hash(password: Password, email: &str) -> Result<String, AccountsError> {
    let email = email.to_owned();
    work(move || {
        password.check(&email)?;
        let hashed = Argon2::default().hash_password(password.0.as_bytes());
        // The system has no randomness.
        hashed.map(|hash| hash.to_string()).map_err(|_| AccountsError::Corrupt("a password"))
    })
    .await?
}

/// Whether the hash is that of the password. Without a hash it takes as long: the
/// time must not tell whether there is an account.
pub(super) async fn verify(password: Password, hash: Option<String>) -> Result<bool, AccountsError> {
    static NOBODYS: LazyLock<String> = LazyLock::new(|| {
        let hash = Argon2::default().hash_password(b"the password of nobody");
        hash.map(|hash| hash.to_string()).unwrap_or_default()
    });
    work(move || {
        let is_somebodys = hash.is_some();
        let hash = hash.as_deref().unwrap_or(&NOBODYS);
        let is_right = PasswordHash::new(hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password.0.as_bytes(), &hash).is_ok());
        is_right && is_somebodys
    })
    .await
}

/// Off the threads that answer requests.
async fn work<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> Result<T, AccountsError> {
    let place = PLACES.clone().acquire_owned().await.map_err(|_| AccountsError::TooSlow)?;
    // Whoever asked may go away; the work goes on, and so does its place.
    let worked = spawn_blocking(move || {
        let done = task();
        drop(place);
        done
    });
    worked.await.map_err(|_| AccountsError::TooSlow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_first_is_refused() {
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
    async fn a_password_is_known_by_its_hash_however_it_was_composed() {
        let hashed = hash(Password::typed("f\u{fc}nfzehn Zeichen!"), "ana@example.com").await.unwrap();
        assert!(hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hashed}");
        assert!(verify(Password::typed("fu\u{308}nfzehn Zeichen!"), Some(hashed.clone())).await.unwrap());
        assert!(!verify(Password::typed("funfzehn Zeichen!"), Some(hashed)).await.unwrap());
        assert!(!verify(Password::typed("the password of nobody"), None).await.unwrap());
        assert_eq!(format!("{:?}", Password::typed("a")), "Password(***)");
    }
}
