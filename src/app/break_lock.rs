use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tracing::Instrument;

use super::App;
use crate::{
    accounts::{AccountsError, Actor},
    limits::Attempt,
    lock::{BreakOutcome, Holder, Owner},
    locks::{BreakRequest, LockId, LocksError},
};

/// A grant that somebody wants to break.
#[derive(Clone, Debug)]
pub struct Breaking {
    pub by: Actor,
    /// What people call that one.
    pub by_label: String,
    pub lock: LockId,
    /// The name of the lock's namespace.
    pub namespace: String,
    /// Whose grant it is.
    pub holder: Holder,
}

/// Why it is not known to be broken.
#[derive(Debug, thiserror::Error)]
pub enum BreakError {
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    #[error(transparent)]
    Locks(#[from] LocksError),
    #[error("the account has broken too many locks of late")]
    TooOften { retry_after: Duration },
    #[error("breaking a lock ended early")]
    Ended,
}

impl App {
    /// Breaks a grant. That is in the audit log, or it has not been done.
    ///
    /// # Errors
    /// When the log or the locks could not be asked in time; it may be broken then
    /// if the locks could not.
    pub async fn break_grant(self: &Arc<Self>, breaking: Breaking) -> Result<BreakOutcome, BreakError> {
        // In a task of its own: a client that hangs up now must not keep what it
        // has done out of the log.
        let task = tokio::spawn(self.clone().break_and_record(breaking).in_current_span());
        task.await.map_err(|error| {
            tracing::error!(%error, "breaking a lock ended early");
            BreakError::Ended
        })?
    }

    async fn break_and_record(self: Arc<Self>, breaking: Breaking) -> Result<BreakOutcome, BreakError> {
        // Each leaves a row that is kept for ever. When it cannot be counted, the lock can
        // be broken all the same.
        // An operator is not limited.
        if breaking.by != Actor::Operator
            && let Ok(Some(retry_after)) = self.attempts.refusal(Attempt::ChangeOf(breaking.holder.account)).await
        {
            return Err(BreakError::TooOften { retry_after });
        }
        let detail = breaking.detail();
        let Breaking { by, lock, holder, .. } = breaking;
        let request = BreakRequest { lock, account: holder.account, fence: holder.fence };
        let recording = self.directory.record(by, holder.account, "lock.break", detail).await?;
        let broken = self.locks.begin_break(&request).await;
        // Without an answer it may be broken; the log says what was tried, then.
        if broken.as_ref().map_or_else(|error| !error.is_sure(), |(broken, _)| *broken == BreakOutcome::Broken) {
            recording.commit().await.inspect_err(|error| {
                tracing::error!(%error, fence = %request.fence, "a lock was broken, and the audit log does not say so");
            })?;
        }
        let (broken, end) = broken?;
        // The journal may be in the same database, where one writes at a time.
        if let Some(end) = end {
            self.locks.finish_break(end).await?;
        }
        Ok(broken)
    }
}

impl Breaking {
    /// What the audit log says of it.
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
