use serde_json::json;

use super::{
    AccountsError, Database, OperatorRequest,
    change::{Actor, now_ms},
};
use crate::lock::NamespaceId;

/// Deletes the rows that belong to an account.
const OF_ACCOUNT: &[&str] = &[
    "DELETE FROM tokens WHERE account = $1",
    "DELETE FROM namespaces WHERE account = $1",
    "DELETE FROM sessions WHERE account = $1",
    "DELETE FROM links WHERE account = $1",
];

impl Database {
    /// Deletes a private namespace. The caller ensures that it has no locks.
    ///
    /// # Errors
    /// If the account has no namespace with this name, or the namespace is the default of a token.
    pub async fn delete_namespace(&self, by: Actor, account: &str, name: &str) -> Result<(), AccountsError> {
        let mut change = self.change(by).await?;
        let account = change.find_account(account).await?;
        let id = change.namespace_id(&account, name).await?;
        if id == NamespaceId::Public {
            return Err(AccountsError::NotFound { what: "namespace", name: name.into() });
        }
        let tokens: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM tokens WHERE account = $1 AND default_namespace = $2 AND revoked_at IS NULL \
             AND (expires_at IS NULL OR expires_at > $3)",
        )
        .bind(account.id.to_string())
        .bind(id.to_string())
        .bind(now_ms())
        .fetch_one(change.connection())
        .await?;
        if tokens > 0 {
            return Err(AccountsError::InUse { namespace: name.into(), tokens: tokens as u64 });
        }
        sqlx::query("DELETE FROM namespaces WHERE id = $1").bind(id.to_string()).execute(change.connection()).await?;
        change.finish(&account, "namespace.remove", json!({ "namespace": name })).await
    }

    /// Deletes an account. Its tokens are rejected everywhere within one second, and a server
    /// releases its locks. Only its id remains, for the audit log.
    ///
    /// # Errors
    /// If the account does not exist, or a suspended account requests its own deletion.
    pub async fn delete_account(&self, by: Actor, account: &str) -> Result<(), AccountsError> {
        let mut change = self.change(by).await?;
        let account = change.find_account(account).await?;
        // Otherwise a suspended user could delete the account and sign up again.
        if account.suspended_at.is_some() && by != Actor::Operator {
            return Err(AccountsError::Suspended);
        }
        let id = account.id.to_string();
        for statement in OF_ACCOUNT {
            sqlx::query(*statement).bind(&id).execute(change.connection()).await?;
        }
        sqlx::query(
            "UPDATE accounts SET email = $1, email_lower = $1, password = NULL, suspended_at = $2, deleted_at = $2 \
             WHERE id = $1",
        )
        .bind(&id)
        .bind(now_ms())
        .execute(change.connection())
        .await?;
        change.add_operator_request(&OperatorRequest::ReleaseAll { account: account.id }).await?;
        change.finish(&account, "account.delete", json!({})).await
    }
}
