use serde_json::Value;
use tokio::time::timeout;

use super::{AccountsError, Caller, Directory, change::Change, measure::measured};

/// A row for the audit log that is written, and not there yet: what it tells of
/// is done while it can still be taken back, by dropping this.
pub struct Recording<'a>(Change<'a>);

impl Directory {
    /// Records what a token does to its account's locks.
    ///
    /// # Errors
    /// When the database could not be asked in time.
    pub async fn record(&self, caller: &Caller, action: &str, detail: Value) -> Result<Recording<'_>, AccountsError> {
        let recorded = async {
            let mut change = self.database.change(&format!("token:{}", caller.token)).await?;
            change.record(Some(caller.account), action, detail).await?;
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
