use std::time::Duration;

use serde_json::json;
use sqlx::Row;

use super::{
    AccountsError, Database, NewToken, Scopes, TokenRequest,
    change::{Actor, now_ms},
};
use crate::lock::{AccountId, Label, Namespace, NamespaceId};

impl Database {
    /// Puts a new token in the place of one, with its label, scopes and default
    /// namespace. The old one works for `grace`, or is refused at once.
    ///
    /// # Errors
    /// When the account has no such token in force, or as many that end soon as it may.
    pub async fn rotate_token(
        &self,
        by: Actor,
        account: AccountId,
        id: &str,
        grace: Option<Duration>,
    ) -> Result<NewToken, AccountsError> {
        let mut change = self.change(by).await?;
        let account = change.find_account(&account.to_string()).await?;
        if grace.is_some() {
            change.check_ending(&account).await?;
        }
        let end = now_ms() + grace.map_or(0, |grace| grace.as_millis() as i64);
        // One that ends already ends no later than it was to.
        let row = sqlx::query(
            "UPDATE tokens SET revoked_at = $1, expires_at = $2 WHERE id = $3 AND account = $4 AND revoked_at IS NULL \
             AND (expires_at IS NULL OR expires_at > $2) \
             RETURNING label, may_lock, may_manage, default_namespace",
        )
        .bind(grace.is_none().then_some(end))
        .bind(end)
        .bind(id)
        .bind(account.id.to_string())
        .fetch_optional(change.connection())
        .await?;
        let row = row.ok_or_else(|| AccountsError::NotFound { what: "token in force", name: id.into() })?;
        let namespace: NamespaceId = row.try_get::<String, _>("default_namespace")?.parse()?;
        let namespace = match namespace {
            NamespaceId::Public => Namespace::PUBLIC.to_owned(),
            private => {
                sqlx::query_scalar("SELECT name FROM namespaces WHERE id = $1")
                    .bind(private.to_string())
                    .fetch_one(change.connection())
                    .await?
            }
        };
        let request = TokenRequest {
            label: Label::parse(row.try_get::<String, _>("label")?)
                .map_err(|_| AccountsError::Corrupt("a token's label"))?,
            scopes: Scopes {
                lock: row.try_get::<i64, _>("may_lock")? != 0,
                manage: row.try_get::<i64, _>("may_manage")? != 0,
            },
            namespace,
        };
        let made = change.insert_token(&account, &request).await?;
        change.delete_long_revoked(account.id).await?;
        let detail =
            json!({ "token": id, "after_ms": grace.map_or(0, |grace| grace.as_millis() as u64), "new": made.id });
        change.finish(&account, "token.rotate", detail).await?;
        Ok(made)
    }

    /// How many tokens that have ended are marked in one change; nobody else changes
    /// anything meanwhile.
    const ENDED_AT_ONCE: i64 = 200;

    /// Marks tokens as revoked that have ended, so that servers of an earlier
    /// version refuse them, too.
    pub(super) async fn end_tokens(&self) -> Result<(), AccountsError> {
        let ended = "SELECT COUNT(*) FROM tokens WHERE revoked_at IS NULL AND expires_at <= $1";
        let ended: i64 = sqlx::query_scalar(ended).bind(now_ms()).fetch_one(self.pool()).await?;
        if ended == 0 {
            return Ok(());
        }
        let mut change = self.change(Actor::Server).await?;
        let rows = sqlx::query(
            "UPDATE tokens SET revoked_at = expires_at WHERE id IN \
             (SELECT id FROM tokens WHERE revoked_at IS NULL AND expires_at <= $1 LIMIT $2) RETURNING id, account",
        )
        .bind(now_ms())
        .bind(Self::ENDED_AT_ONCE)
        .fetch_all(change.connection())
        .await?;
        for row in rows {
            let account: AccountId =
                row.try_get::<String, _>("account")?.parse().map_err(|_| AccountsError::Corrupt("an account's id"))?;
            let id: String = row.try_get("id")?;
            change.record(Some(account), "token.end", json!({ "token": id })).await?;
            change.delete_long_revoked(account).await?;
            change.touch_account(account).await?;
        }
        change.commit().await
    }
}
