use std::time::Duration;

use serde_json::json;
use sqlx::Row;

use super::{
    AccountsError, Database, NewToken, Scopes, TokenRequest,
    change::{Actor, now_ms},
};
use crate::lock::{AccountId, Label, Namespace, NamespaceId};

impl Database {
    /// Replaces a token by a new one with the same label, scopes and default namespace. The old
    /// token expires after `grace`, or is revoked immediately without one.
    ///
    /// # Errors
    /// If the account has no such active token, or has reached the limit of expiring tokens.
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
            change.check_expiring(&account).await?;
        }
        let end = now_ms() + grace.map_or(0, |grace| grace.as_millis() as i64);
        // Never extend the expiry of a token that already has one.
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
        let row = row.ok_or_else(|| AccountsError::NotFound { what: "active token", name: id.into() })?;
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
        let created = change.insert_token(&account, &request).await?;
        change.delete_long_revoked(account.id).await?;
        let detail =
            json!({ "token": id, "after_ms": grace.map_or(0, |grace| grace.as_millis() as u64), "new": created.id });
        change.finish(&account, "token.rotate", detail).await?;
        Ok(created)
    }

    /// Expired tokens per transaction, which blocks all other changes.
    const EXPIRED_BATCH: i64 = 200;

    /// Marks expired tokens as revoked, so that servers of an earlier version reject them, too.
    pub(super) async fn revoke_expired_tokens(&self) -> Result<(), AccountsError> {
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
        .bind(Self::EXPIRED_BATCH)
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
