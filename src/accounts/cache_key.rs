use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{AccountsError, Database, Secret, TokenHash};

/// The key that signs entries of the token cache in the store. It is only in the account database,
/// so that write access to Redis does not suffice to forge a token. `Debug` masks it.
pub(super) struct CacheKey(Secret);

/// The signed data: the whole entry and its token.
pub(super) struct Signed<'a> {
    pub token: &'a TokenHash,
    /// The number of the last change before the entry was read.
    pub seq: &'a str,
    pub account: &'a str,
    pub entry: &'a str,
}

impl CacheKey {
    pub(super) fn generate() -> Self {
        Self(Secret::generate())
    }

    /// Returns the message authentication code: HMAC-SHA-256 in base64url.
    pub(super) fn mac(&self, signed: &Signed<'_>) -> String {
        URL_SAFE_NO_PAD.encode(self.hmac(signed).map(|hmac| hmac.finalize().into_bytes()).unwrap_or_default())
    }

    /// Verifies a code in constant time.
    pub(super) fn is_mac(&self, mac: &str, signed: &Signed<'_>) -> bool {
        let mac = URL_SAFE_NO_PAD.decode(mac).unwrap_or_default();
        self.hmac(signed).is_some_and(|hmac| hmac.verify_slice(&mac).is_ok())
    }

    /// Never `None`: HMAC accepts keys of any length.
    fn hmac(&self, signed: &Signed<'_>) -> Option<Hmac<Sha256>> {
        let mut hmac = Hmac::<Sha256>::new_from_slice(self.0.reveal().as_bytes()).ok()?;
        // The first three parts contain no line break.
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
    /// Returns the key of all servers; the first server creates it.
    pub(super) async fn cache_key(&self) -> Result<CacheKey, AccountsError> {
        if let Some(key) = self.read_cache_key().await? {
            return Ok(key);
        }
        sqlx::query("INSERT INTO cache_key (one, key) VALUES (1, $1) ON CONFLICT (one) DO NOTHING")
            .bind(CacheKey::generate().0.reveal())
            .execute(self.pool())
            .await?;
        self.read_cache_key().await?.ok_or(AccountsError::Corrupt("the token cache's signing key"))
    }

    async fn read_cache_key(&self) -> Result<Option<CacheKey>, AccountsError> {
        let key: Option<String> = sqlx::query_scalar("SELECT key FROM cache_key").fetch_optional(self.pool()).await?;
        key.map(|key| Secret::parse(&key).map(CacheKey).ok_or(AccountsError::Corrupt("the token cache's signing key")))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Token;

    #[test]
    fn code_is_valid_for_one_entry_of_one_token_with_one_key() {
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
