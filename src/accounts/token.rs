use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow};
use uuid::Uuid;

use super::{
    AccountInfo, AccountsError, Database, Scopes,
    change::{Actor, ChangeTransaction, now_ms},
};
use crate::lock::{AccountId, Label, Namespace, NamespaceId};

/// A client's token. `Debug` masks it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Uuid);

/// The SHA-256 hash of a token, its only stored form. A token has 122 random bits, so neither a
/// salt nor a slow hash function would add security.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TokenHash([u8; 32]);

/// The properties of a new token.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    pub label: Label,
    pub scopes: Scopes,
    /// Name of the default namespace of its locks.
    pub namespace: String,
}

/// A new token. Its plain text is available only here.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub id: Uuid,
    pub token: Token,
}

/// A token without its plain text.
#[derive(Clone, Debug, Serialize)]
pub struct TokenInfo {
    pub id: String,
    pub label: String,
    pub scopes: Scopes,
    /// Name of the default namespace.
    pub namespace: String,
    /// Times are milliseconds since 1970.
    pub created_at: i64,
    /// To the hour.
    pub last_used_at: Option<i64>,
    pub revoked_at: Option<i64>,
    /// Expiry of a token that was rotated.
    pub expires_at: Option<i64>,
}

/// The query for [`TokenInfo`]. Every appended text is a constant of this file, and all values are
/// bound.
const SELECT: &str = "SELECT t.id, t.label, t.may_lock, t.may_manage, t.created_at, t.last_used_hour, t.revoked_at, \
                      t.expires_at, COALESCE(n.name, 'public') AS namespace \
                      FROM tokens t LEFT JOIN namespaces n ON n.id = t.default_namespace";
/// Tokens of account `$1` that are active at time `$2`.
const LIVE: &str = "WHERE t.account = $1 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2)";

impl Token {
    /// Generates a token from the operating system's random source.
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }

    /// Parses a token in the hyphenated form of a UUID; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        // Other text forms of UUIDs would give one token several spellings.
        let is_hyphenated = text.len() == 36;
        Uuid::try_parse(text).ok().filter(|_| is_hyphenated).map(Self)
    }

    /// Returns the plain text, for its recipient.
    pub fn reveal(&self) -> String {
        self.0.to_string()
    }

    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.to_string().as_bytes()).into())
    }
}

impl Database {
    /// Maximum number of revoked tokens that are listed per account. Older ones are deleted; the
    /// audit log has them.
    pub const REVOKED_TOKENS_MAX: u32 = 100;

    /// Creates a token.
    ///
    /// # Errors
    /// If the account or the namespace does not exist, or the plan's limit is reached.
    pub async fn create_token(
        &self,
        by: Actor,
        account: &str,
        request: &TokenRequest,
    ) -> Result<NewToken, AccountsError> {
        let mut change = self.change(by).await?;
        let account = change.find_account(account).await?;
        let created = change.add_token(&account, request).await?;
        change.touch_account(account.id).await?;
        change.commit().await?;
        Ok(created)
    }

    /// Lists all tokens of an account, including revoked ones, oldest first.
    ///
    /// # Errors
    /// If the account does not exist.
    pub async fn list_tokens(&self, account: &str) -> Result<Vec<TokenInfo>, AccountsError> {
        let account = self.show_account(account).await?;
        let rows = sqlx::query(AssertSqlSafe(format!("{SELECT} WHERE t.account = $1 ORDER BY t.id")))
            .bind(account.id.to_string())
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(TokenInfo::read).collect()
    }

    /// Lists up to `limit` active tokens of an account, oldest first, that were created after the
    /// token with the id `after`, which may be empty.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_live_tokens(
        &self,
        account: AccountId,
        after: &str,
        limit: usize,
    ) -> Result<Vec<TokenInfo>, AccountsError> {
        let rows = sqlx::query(AssertSqlSafe(format!("{SELECT} {LIVE} AND t.id > $3 ORDER BY t.id LIMIT $4")))
            .bind(account.to_string())
            .bind(now_ms())
            .bind(after)
            .bind(limit as i64)
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(TokenInfo::read).collect()
    }

    /// Reads one active token of an account by its id.
    ///
    /// # Errors
    /// If it does not exist.
    pub async fn show_live_token(&self, account: AccountId, id: &str) -> Result<TokenInfo, AccountsError> {
        let row = sqlx::query(AssertSqlSafe(format!("{SELECT} {LIVE} AND t.id = $3")))
            .bind(account.to_string())
            .bind(now_ms())
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        let row = row.ok_or_else(|| AccountsError::NotFound { what: "active token", name: id.into() })?;
        TokenInfo::read(&row)
    }

    /// Counts the active tokens of an account.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_live_tokens(&self, account: AccountId) -> Result<u64, AccountsError> {
        count_live(&mut *self.pool().acquire().await?, account, "").await
    }

    /// Revokes a token by its id, of any account or of one. All servers reject it within one
    /// second.
    ///
    /// # Errors
    /// If the token does not exist or is already revoked.
    pub async fn revoke_token(&self, by: Actor, of: Option<AccountId>, id: &str) -> Result<(), AccountsError> {
        let mut change = self.change(by).await?;
        let row = sqlx::query(
            "UPDATE tokens SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL AND ($3 = '' OR account = $3) \
             RETURNING account",
        )
        .bind(now_ms())
        .bind(id)
        .bind(of.map(|account| account.to_string()).unwrap_or_default())
        .fetch_optional(change.connection())
        .await?;
        let row = row.ok_or_else(|| AccountsError::NotFound { what: "active token", name: id.into() })?;
        let account: AccountId =
            row.try_get::<String, _>("account")?.parse().map_err(|_| AccountsError::Corrupt("an account's id"))?;
        change.record(Some(account), "token.revoke", serde_json::json!({ "token": id })).await?;
        change.delete_long_revoked(account).await?;
        change.touch_account(account).await?;
        change.commit().await
    }
}

impl ChangeTransaction<'_> {
    /// Adds a token if the plan allows one more. Changes are serialized, so concurrent requests
    /// cannot exceed the limit together.
    pub(super) async fn add_token(
        &mut self,
        account: &AccountInfo,
        request: &TokenRequest,
    ) -> Result<NewToken, AccountsError> {
        let max = self.find_plan(&account.plan).await?.tokens_max;
        if count_live(self.connection(), account.id, "").await? >= max {
            return Err(AccountsError::TooManyTokens { plan: account.plan.clone(), max });
        }
        self.insert_token(account, request).await
    }

    /// Checks that one more rotated token may stay active until its expiry: their limit is the
    /// plan's limit of active tokens.
    pub(super) async fn check_expiring(&mut self, account: &AccountInfo) -> Result<(), AccountsError> {
        let max = self.find_plan(&account.plan).await?.tokens_max;
        match count_live(self.connection(), account.id, "AND t.expires_at IS NOT NULL").await? {
            ending if ending >= max => Err(AccountsError::TooManyExpiring { max }),
            _ => Ok(()),
        }
    }

    /// Deletes an account's revoked tokens beyond the newest [`Database::REVOKED_TOKENS_MAX`].
    pub(super) async fn delete_long_revoked(&mut self, account: AccountId) -> Result<(), AccountsError> {
        sqlx::query(
            "DELETE FROM tokens WHERE account = $1 AND revoked_at IS NOT NULL AND id NOT IN \
             (SELECT id FROM tokens WHERE account = $1 AND revoked_at IS NOT NULL ORDER BY revoked_at DESC, id DESC LIMIT $2)",
        )
        .bind(account.to_string())
        .bind(i64::from(Database::REVOKED_TOKENS_MAX))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Adds a token without checking the limit.
    pub(super) async fn insert_token(
        &mut self,
        account: &AccountInfo,
        request: &TokenRequest,
    ) -> Result<NewToken, AccountsError> {
        let namespace = self.namespace_id(account, &request.namespace).await?;
        let created = NewToken { id: Uuid::now_v7(), token: Token::generate() };
        sqlx::query(
            "INSERT INTO tokens (id, account, hash, label, may_lock, may_manage, default_namespace, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(created.id.to_string())
        .bind(account.id.to_string())
        .bind(created.token.hash().to_string())
        .bind(request.label.as_str())
        .bind(i64::from(request.scopes.lock))
        .bind(i64::from(request.scopes.manage))
        .bind(namespace.to_string())
        .bind(now_ms())
        .execute(self.connection())
        .await?;
        let detail = serde_json::json!({
            "token": created.id, "label": request.label, "scopes": request.scopes, "namespace": request.namespace,
        });
        self.record(Some(account.id), "token.create", detail).await?;
        Ok(created)
    }

    pub(super) async fn namespace_id(
        &mut self,
        account: &AccountInfo,
        name: &str,
    ) -> Result<NamespaceId, AccountsError> {
        if name == Namespace::PUBLIC {
            return Ok(NamespaceId::Public);
        }
        let id: Option<String> = sqlx::query_scalar("SELECT id FROM namespaces WHERE account = $1 AND name = $2")
            .bind(account.id.to_string())
            .bind(name)
            .fetch_optional(self.connection())
            .await?;
        let id = id.ok_or_else(|| AccountsError::NotFound { what: "namespace", name: name.into() })?;
        Ok(id.parse()?)
    }
}

/// Counts the active tokens of an account that match a condition.
async fn count_live(
    connection: &mut AnyConnection,
    account: AccountId,
    narrowed: &'static str,
) -> Result<u64, AccountsError> {
    let live: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT COUNT(*) FROM tokens t {LIVE} {narrowed}")))
        .bind(account.to_string())
        .bind(now_ms())
        .fetch_one(connection)
        .await?;
    Ok(live as u64)
}

impl TokenInfo {
    fn read(row: &AnyRow) -> Result<Self, AccountsError> {
        Ok(Self {
            id: row.try_get("id")?,
            label: row.try_get("label")?,
            scopes: Scopes {
                lock: row.try_get::<i64, _>("may_lock")? != 0,
                manage: row.try_get::<i64, _>("may_manage")? != 0,
            },
            namespace: row.try_get("namespace")?,
            created_at: row.try_get("created_at")?,
            last_used_at: row.try_get::<Option<i64>, _>("last_used_hour")?.map(|hour| hour * 3_600_000),
            revoked_at: row.try_get("revoked_at")?,
            expires_at: row.try_get("expires_at")?,
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// Lower-case hexadecimal.
impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_masked_and_parsed_in_one_form() {
        let token = Token::parse("67e55044-10b1-426f-9247-bb680e5fe0c8").unwrap();
        assert_eq!(format!("{token:?}"), "Token(***)");
        assert_eq!(token.hash().to_string().len(), 64);
        assert_eq!(Token::parse("67E55044-10B1-426F-9247-BB680E5FE0C8"), Some(token));
        for text in ["", "67e5504410b1426f9247bb680e5fe0c8", "{67e55044-10b1-426f-9247-bb680e5fe0c8}", "deploy"] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
    }
}
