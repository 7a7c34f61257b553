use sqlx::Row;

use super::{AccountsError, Database};
use crate::lock::AccountId;

/// Which rows of the audit log to read.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// What actions begin with, as in `token.`; empty for all.
    pub action: String,
    /// Only what stands behind this row: its time and its id.
    pub before: Option<(i64, String)>,
}

/// A row of the audit log.
#[derive(Clone, Debug)]
pub struct AuditRow {
    pub id: String,
    /// Milliseconds since 1970.
    pub at: i64,
    /// As [`super::Actor`] prints.
    pub actor: String,
    pub action: String,
    /// JSON.
    pub detail: String,
}

impl Database {
    /// Reads what happened to an account, the newest first, `limit` rows at most.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read_audit(
        &self,
        account: AccountId,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<Vec<AuditRow>, AccountsError> {
        let (at, id) = filter.before.clone().unwrap_or((i64::MAX, String::new()));
        let rows = sqlx::query(
            "SELECT id, at, actor, action, detail FROM audit WHERE account = $1 AND (at < $2 OR (at = $2 AND id < $3)) \
             AND SUBSTR(action, 1, $4) = $5 ORDER BY at DESC, id DESC LIMIT $6",
        )
        .bind(account.to_string())
        .bind(at)
        .bind(id)
        .bind(filter.action.chars().count() as i32)
        .bind(&filter.action)
        .bind(limit as i64)
        .fetch_all(self.pool())
        .await?;
        let row = |row: &sqlx::any::AnyRow| -> Result<_, AccountsError> {
            Ok(AuditRow {
                id: row.try_get("id")?,
                at: row.try_get("at")?,
                actor: row.try_get("actor")?,
                action: row.try_get("action")?,
                detail: row.try_get("detail")?,
            })
        };
        rows.iter().map(row).collect()
    }
}
