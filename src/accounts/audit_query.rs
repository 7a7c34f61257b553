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

/// Some rows, the newest first.
#[derive(Clone, Debug, Default)]
pub struct AuditPage {
    pub rows: Vec<AuditRow>,
    /// Behind which row to go on; `None` at the end. There need not be one of the kind
    /// that is read.
    pub next: Option<(i64, String)>,
}

impl Database {
    /// How many rows of an account one statement reads, of whichever kind.
    const AUDIT_READ_MAX: usize = 200;
    /// How many statements read one page.
    const AUDIT_READS_MAX: usize = 20;

    /// Reads what happened to an account, the newest first, `limit` rows at most. Of a kind
    /// that there is little of a page may end before it is full: however long the log is,
    /// so much of it is read and no more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read_audit(
        &self,
        account: AccountId,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<AuditPage, AccountsError> {
        let mut page = AuditPage { rows: Vec::new(), next: filter.before.clone() };
        for _ in 0..Self::AUDIT_READS_MAX {
            let rows = self.read_audit_before(account, page.next.take()).await?;
            let is_end = rows.len() < Self::AUDIT_READ_MAX;
            for row in rows {
                // One more of the kind tells that there is another page.
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
    /// Where it stands in the log.
    fn position(&self) -> (i64, String) {
        (self.at, self.id.clone())
    }
}
