use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use uuid::Uuid;

use super::{Caller, Database, change::now_ms, metrics::measured};

/// Which tokens were used in which hour, collected in memory so that no request
/// waits for it to be written.
#[derive(Default)]
pub(super) struct Usage {
    used: Mutex<HashMap<Uuid, i64>>,
}

impl Usage {
    /// How many tokens are collected between two writings; more are noted the
    /// next time they are used.
    const COLLECTED_MAX: usize = 100_000;

    /// Notes that a token is in use, unless the database knows for this hour.
    pub(super) fn note(&self, caller: &Caller) {
        let hour = now_ms() / 3_600_000;
        if caller.last_used_hour == Some(hour) {
            return;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < Self::COLLECTED_MAX || used.contains_key(&caller.token) {
            used.insert(caller.token, hour);
        }
    }

    /// Writes what was collected.
    pub(super) async fn write(&self, database: &Database) {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return;
        }
        let used: Vec<_> = used.into_iter().collect();
        if let Err(error) = measured("note_used", database.note_used(&used)).await {
            // The hour is lost; the next use is noted again.
            tracing::warn!(%error, "cannot note when tokens were used");
        }
    }
}
