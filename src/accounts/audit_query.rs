use sqlx::Row;

use super::{AccountsError, Database};
use crate::lock::AccountId;

/// Selects rows of the audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Prefix of the action, such as `token.`; empty for all.
    pub action: String,
    /// Only rows older than this position: time and id of a row.
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

/// A page of rows, newest first.
#[derive(Clone, Debug, Default)]
pub struct AuditRows {
    pub rows: Vec<AuditRow>,
    /// Position after which the next page begins; `None` at the end. The next page may be empty.
    pub next: Option<(i64, String)>,
}

impl Database {
    /// Rows that one statement reads, matching or not.
    const AUDIT_READ_MAX: usize = 200;
    /// Maximum number of statements per page.
    const AUDIT_READS_MAX: usize = 20;

    /// Reads audit rows of an account, newest first, at most `limit`. A page may end before it is
    /// full if few rows match: the number of rows read per page is bounded.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read_audit(
        &self,
        account: AccountId,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<AuditRows, AccountsError> {
        let mut page = AuditRows { rows: Vec::new(), next: filter.before.clone() };
        for _ in 0..Self::AUDIT_READS_MAX {
            let rows = self.read_audit_before(account, page.next.take()).await?;
            let is_end = rows.len() < Self::AUDIT_READ_MAX;
            for row in rows {
                // One more matching row proves that there is another page.
                if row.action.starts_with(&filter.action) && page.rows.len() == limit {
                    page.next = page.rows.last().map(AuditRow::position);
                    return Ok(page);
                }
                page.next = Some(row.position());
                if row.action.starts_with(&filter.action) {
                    page.rows.push(row);
                }
            }
            if is_end {
                page.next = None;
                break;
            }
        }
        Ok(page)
    }

    async fn read_audit_before(
        &self,
        account: AccountId,
        before: Option<(i64, String)>,
    ) -> Result<Vec<AuditRow>, AccountsError> {
        let (at, id) = before.unwrap_or((i64::MAX, String::new()));
        let rows = sqlx::query(
            "SELECT id, at, actor, action, detail FROM audit WHERE account = $1 AND at <= $2 AND (at < $2 OR id < $3) \
             ORDER BY at DESC, id DESC LIMIT $4",
        )
        .bind(account.to_string())
        .bind(at)
        .bind(id)
        .bind(Self::AUDIT_READ_MAX as i64)
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

impl AuditRow {
    /// The row's position in the log.
    fn position(&self) -> (i64, String) {
        (self.at, self.id.clone())
    }
}
