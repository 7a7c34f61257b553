use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use uuid::Uuid;

use super::{Caller, Database, change::now_ms, metrics::measured};

/// The hour of the last use of each token, buffered in memory so that no request waits for a write.
#[derive(Default)]
pub(super) struct TokenUsage {
    used: Mutex<HashMap<Uuid, i64>>,
}

impl TokenUsage {
    /// Maximum number of buffered tokens; the use of others is recorded next time.
    const BUFFERED_MAX: usize = 100_000;

    /// Records a use, unless the database already has this hour.
    pub(super) fn record(&self, caller: &Caller) {
        let hour = now_ms() / 3_600_000;
        if caller.last_used_hour == Some(hour) {
            return;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < Self::BUFFERED_MAX || used.contains_key(&caller.token) {
            used.insert(caller.token, hour);
        }
    }

    /// Writes the buffered uses.
    pub(super) async fn write(&self, database: &Database) {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return;
        }
        let used: Vec<_> = used.into_iter().collect();
        if let Err(error) = measured("write_last_used", database.write_last_used(&used)).await {
            // This hour is lost; the next use is recorded again.
            tracing::warn!(%error, "cannot write the last use of tokens");
        }
    }
}
