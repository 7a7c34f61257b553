use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{AccountsError, Database, Secret, TokenHash};

/// What signs entries of tokens in the store. It is in the account database alone, so that
/// whoever can write to Redis makes no token. It does not print.
pub(super) struct CacheKey(Secret);

/// What of an entry is signed: all of it, and for which token.
pub(super) struct Signed<'a> {
    pub token: &'a TokenHash,
    /// The number of the change up to which it is true.
    pub seq: &'a str,
    pub account: &'a str,
    pub entry: &'a str,
}

impl CacheKey {
    pub(super) fn generate() -> Self {
        Self(Secret::generate())
    }

    /// The message authentication code: HMAC-SHA-256 in base64url.
    pub(super) fn mac(&self, signed: &Signed<'_>) -> String {
        URL_SAFE_NO_PAD.encode(self.hmac(signed).map(|hmac| hmac.finalize().into_bytes()).unwrap_or_default())
    }

    /// Compares in a time that does not depend on where two differ.
    pub(super) fn is_mac(&self, mac: &str, signed: &Signed<'_>) -> bool {
        let mac = URL_SAFE_NO_PAD.decode(mac).unwrap_or_default();
        self.hmac(signed).is_some_and(|hmac| hmac.verify_slice(&mac).is_ok())
    }

    /// None never: HMAC takes keys of any length.
    fn hmac(&self, signed: &Signed<'_>) -> Option<Hmac<Sha256>> {
        let mut hmac = Hmac::<Sha256>::new_from_slice(self.0.reveal().as_bytes()).ok()?;
        // The first three have no line end in them.
        for part in [&*signed.token.to_string(), "\n", signed.seq, "\n", signed.account, "\n", signed.entry] {
            hmac.update(part.as_bytes());
        }
        Some(hmac)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKey(***)")
    }
}

impl Database {
    /// The key of all servers. Whoever asks first makes it.
    pub(super) async fn cache_key(&self) -> Result<CacheKey, AccountsError> {
        if let Some(key) = self.read_cache_key().await? {
            return Ok(key);
        }
        sqlx::query("INSERT INTO cache_key (one, key) VALUES (1, $1) ON CONFLICT (one) DO NOTHING")
            .bind(CacheKey::generate().0.reveal())
            .execute(self.pool())
            .await?;
        self.read_cache_key().await?.ok_or(AccountsError::Corrupt("the key of the cache"))
    }

    async fn read_cache_key(&self) -> Result<Option<CacheKey>, AccountsError> {
        let key: Option<String> = sqlx::query_scalar("SELECT key FROM cache_key").fetch_optional(self.pool()).await?;
        key.map(|key| Secret::parse(&key).map(CacheKey).ok_or(AccountsError::Corrupt("the key of the cache")))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Token;

    #[test]
    fn a_code_is_for_one_entry_of_one_token_under_one_key() {
        let (key, token, other) = (CacheKey::generate(), Token::generate().hash(), Token::generate().hash());
        let signed = || Signed { token: &token, seq: "7", account: "ana", entry: "{}" };
        let mac = key.mac(&signed());
        assert!(key.is_mac(&mac, &signed()));
        assert!(!CacheKey::generate().is_mac(&mac, &signed()));
        for changed in [
            Signed { token: &other, ..signed() },
            Signed { seq: "8", ..signed() },
            Signed { account: "bob", ..signed() },
            Signed { entry: "{ }", ..signed() },
        ] {
            assert!(!key.is_mac(&mac, &changed));
        }
        for mac in ["", "AAAA", &format!("{mac}A"), &mac.to_lowercase()] {
            assert!(!key.is_mac(mac, &signed()), "{mac}");
        }
        assert_eq!(format!("{key:?}"), "CacheKey(***)");
    }
}
