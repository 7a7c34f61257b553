use serde_json::Value;
use tokio::time::timeout;

use super::{
    AccountsError, TokenCache,
    change::{Actor, ChangeTransaction},
    metrics::measured,
};
use crate::lock::AccountId;

/// An audit row that is written but not committed. The caller performs the action before the
/// commit, so that dropping this value still discards the row.
pub struct PendingAuditRow<'a>(ChangeTransaction<'a>);

impl TokenCache {
    /// Writes an audit row for an action on the locks of an account.
    ///
    /// # Errors
    /// If the database fails or times out.
    pub async fn record(
        &self,
        by: Actor,
        account: AccountId,
        action: &str,
        detail: Value,
    ) -> Result<PendingAuditRow<'_>, AccountsError> {
        let recorded = async {
            let mut change = self.database.change(by).await?;
            change.record(Some(account), action, detail).await?;
            Ok(PendingAuditRow(change))
        };
        timeout(Self::DATABASE_TIMEOUT, measured("record", recorded)).await.unwrap_or(Err(AccountsError::TooSlow))
    }
}

impl PendingAuditRow<'_> {
    /// Commits the row.
    ///
    /// # Errors
    /// If the database fails or times out; the row may be committed then.
    pub async fn commit(self) -> Result<(), AccountsError> {
        timeout(TokenCache::DATABASE_TIMEOUT, measured("commit", self.0.commit()))
            .await
            .unwrap_or(Err(AccountsError::TooSlow))
    }
}
