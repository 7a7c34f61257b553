use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tracing::Instrument;

use super::App;
use crate::{
    accounts::{AccountsError, Actor},
    limits::LimitedAction,
    lock::{BreakOutcome, Holder, Owner},
    locks::{BreakRequest, LockKey, LocksError},
};

/// A request to break a grant, with the facts for the audit log.
#[derive(Clone, Debug)]
pub struct AuditedBreak {
    pub by: Actor,
    /// The label of the actor.
    pub by_label: String,
    pub lock: LockKey,
    /// The name of the lock's namespace.
    pub namespace: String,
    /// The holder of the grant.
    pub holder: Holder,
}

/// Why the break failed or its outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum BreakError {
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    #[error(transparent)]
    Locks(#[from] LocksError),
    #[error("the account broke too many locks recently; retry later")]
    TooOften { retry_after: Duration },
    #[error("the task that breaks the lock failed")]
    Ended,
}

impl App {
    /// Breaks a grant, and records the break in the audit log.
    ///
    /// # Errors
    /// When the database or the lock store does not answer in time. In the second case the grant may be
    /// broken.
    pub async fn break_grant(self: &Arc<Self>, requested: AuditedBreak) -> Result<BreakOutcome, BreakError> {
        // A separate task: a client that disconnects must not prevent the audit record.
        let task = tokio::spawn(self.clone().break_and_record(requested).in_current_span());
        task.await.map_err(|error| {
            tracing::error!(%error, "task of a break failed");
            BreakError::Ended
        })?
    }

    async fn break_and_record(self: Arc<Self>, requested: AuditedBreak) -> Result<BreakOutcome, BreakError> {
        // Limited, because each break adds a permanent row to the audit log. If the limiter is unavailable,
        // the break proceeds. Operators are not limited.
        if requested.by != Actor::Operator
            && let Ok(Some(retry_after)) =
                self.action_rates.count(LimitedAction::ChangeOf(requested.holder.account)).await
        {
            return Err(BreakError::TooOften { retry_after });
        }
        let detail = requested.detail();
        let AuditedBreak { by, lock, holder, .. } = requested;
        let request = BreakRequest { lock, account: holder.account, fence: holder.fence };
        let recording = self.token_cache.record(by, holder.account, "lock.break", detail).await?;
        let broken = self.locks.begin_break(&request).await;
        // Without an answer the grant may be broken, so the log records the attempt.
        if broken.as_ref().map_or_else(|error| !error.is_sure(), |(broken, _)| *broken == BreakOutcome::Broken) {
            recording.commit().await.inspect_err(|error| {
                tracing::error!(%error, fence = %request.fence, "a lock was broken, but the audit log has no record of it");
            })?;
        }
        let (broken, end) = broken?;
        // After the commit: the journal may be in the same SQLite database, which allows one writer.
        if let Some(end) = end {
            self.locks.finish_break(end).await?;
        }
        Ok(broken)
    }
}

impl AuditedBreak {
    /// The detail of the audit record.
    fn detail(&self) -> Value {
        json!({
            "by": self.by_label,
            "namespace": self.namespace,
            "name": self.lock.name.as_str(),
            "holder": {
                "owner": self.holder.owner.as_ref().map(Owner::as_str),
                "note": self.holder.note.as_str(),
                "token_label": self.holder.label.as_str(),
                "fencing_token": self.holder.fence,
                "acquired_at": format!("{:.3}", self.holder.acquired_at),
                "expires_at": format!("{:.3}", self.holder.expires_at),
            },
        })
    }
}
