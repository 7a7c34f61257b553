use serde_json::Value;
use tokio::time::timeout;

use super::{
    AccountsError, Directory,
    change::{Actor, Change},
    metrics::measured,
};
use crate::lock::AccountId;

/// A row for the audit log that is written, and not there yet: what it tells of
/// is done while it can still be taken back, by dropping this.
pub struct Recording<'a>(Change<'a>);

impl Directory {
    /// Records what somebody does to the locks of an account.
    ///
    /// # Errors
    /// When the database could not be asked in time.
    pub async fn record(
        &self,
        by: Actor,
        account: AccountId,
        action: &str,
        detail: Value,
    ) -> Result<Recording<'_>, AccountsError> {
        let recorded = async {
            let mut change = self.database.change(by).await?;
            change.record(Some(account), action, detail).await?;
            Ok(Recording(change))
        };
        timeout(Self::DATABASE_TIMEOUT, measured("record", recorded)).await.unwrap_or(Err(AccountsError::TooSlow))
    }
}

impl Recording<'_> {
    /// Keeps what was recorded.
    ///
    /// # Errors
    /// When the database could not be asked in time; it may be kept then.
    pub async fn commit(self) -> Result<(), AccountsError> {
        timeout(Directory::DATABASE_TIMEOUT, measured("commit", self.0.commit()))
            .await
            .unwrap_or(Err(AccountsError::TooSlow))
    }
}
