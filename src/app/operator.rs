//! Requests of the operator CLI about locks, which reach a server through the account database.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{App, AuditedBreak};
use crate::{
    accounts::{AccountsError, Actor, ClaimedRequest, HolderInfo, NamedLock, OperatorAnswer, OperatorRequest},
    lock::{AccountId, BreakOutcome, Holder, LockName, LockState, Owner, RateCharge},
    locks::{BreakRequest, ListRequest, LockKey, Locks, LocksError, ReadOutcome},
};

/// The maximum number of pages of locks that are released for a deleted account; the remaining locks
/// expire.
const PAGES_MAX: usize = 200;
/// The pause before a retry.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The maximum number of attempts to release a page.
const TRIES_MAX: usize = 60;

impl App {
    /// Executes operator requests until `stop` is cancelled.
    pub async fn serve_operators(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.token_cache.changes();
        let work = async {
            loop {
                match self.database.claim_operator_requests().await {
                    Ok(requests) => {
                        for request in requests {
                            // Concurrent: one request may release many locks.
                            tokio::spawn(self.clone().carry_out(request));
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "failed to read operator requests");
                        sleep(RETRY_PAUSE).await;
                        continue;
                    }
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn carry_out(self: Arc<Self>, ClaimedRequest { id, request }: ClaimedRequest) {
        let answer = match request {
            OperatorRequest::Show { lock } => self.show(&lock).await,
            OperatorRequest::Break { lock, fencing_token } => self.break_for_operator(&lock, fencing_token).await,
            OperatorRequest::ReleaseAll { account } => self.release_all(account).await,
        };
        let answer = answer.unwrap_or_else(|reason| OperatorAnswer::Failed { reason });
        if let Err(error) = self.database.answer_operator_request(&id, &answer).await {
            tracing::warn!(%error, "failed to store the answer to an operator request");
        }
    }

    async fn show(&self, lock: &NamedLock) -> Result<OperatorAnswer, String> {
        let LockState { held, waiting, .. } = self.lock_state(lock).await?;
        let holder = held.map(|held| held.holder);
        if let Some(holder) = &holder {
            let detail = json!({ "namespace": lock.namespace, "name": lock.name, "fencing_token": holder.fence });
            let recorded = async {
                self.token_cache.record(Actor::Operator, holder.account, "lock.show", detail).await?.commit().await
            };
            recorded.await.map_err(|error: AccountsError| error.to_string())?;
        }
        Ok(OperatorAnswer::Shown { holder: holder.as_ref().map(holder_info), waiting })
    }

    async fn break_for_operator(self: &Arc<Self>, lock: &NamedLock, fence: u64) -> Result<OperatorAnswer, String> {
        let holder = self.lock_state(lock).await?.held.map(|held| held.holder);
        let Some(holder) = holder.filter(|holder| holder.fence.as_u64() == fence) else {
            return Ok(OperatorAnswer::Broken { broken: false });
        };
        let requested = AuditedBreak {
            by: Actor::Operator,
            by_label: "operator".into(),
            lock: lock_key(lock)?,
            namespace: lock.namespace.clone(),
            holder,
        };
        let broken = self.break_grant(requested).await.map_err(|error| error.to_string())?;
        Ok(OperatorAnswer::Broken { broken: broken == BreakOutcome::Broken })
    }

    async fn release_all(&self, account: AccountId) -> Result<OperatorAnswer, String> {
        for _ in 0..TRIES_MAX {
            match release_all(&self.locks, account).await {
                Ok(()) => return Ok(OperatorAnswer::Released),
                Err(error) => tracing::debug!(%error, "releasing the locks of a deleted account failed, retrying"),
            }
            sleep(RETRY_PAUSE).await;
        }
        tracing::warn!(account = %account, "locks of a deleted account were not released and will expire");
        Err("the lock store did not answer; the remaining locks expire with their leases".into())
    }

    async fn lock_state(&self, lock: &NamedLock) -> Result<LockState, String> {
        let read = self.locks.inspect(&lock_key(lock)?, None, &RateCharge::Done).await;
        match read.map_err(|error| error.to_string())?.outcome {
            ReadOutcome::Found(state) => Ok(state),
            // Unreachable: a request that is charged already is not limited.
            ReadOutcome::RateLimited { .. } => Err("the rate is used up".into()),
        }
    }
}

async fn release_all(locks: &Locks, account: AccountId) -> Result<(), LocksError> {
    for _ in 0..PAGES_MAX {
        let request =
            ListRequest { account, namespace: None, prefix: String::new(), limit: Locks::PAGE_MAX, after: None };
        let page = locks.list_uncounted(request).await?;
        if page.locks.is_empty() {
            return Ok(());
        }
        for (lock, holder) in page.locks {
            locks.break_grant(&BreakRequest { lock, account, fence: holder.fence }).await?;
        }
    }
    Ok(())
}

fn lock_key(lock: &NamedLock) -> Result<LockKey, String> {
    let namespace = lock.namespace_id.parse().map_err(|_| format!("{:?} is not a namespace id", lock.namespace_id))?;
    Ok(LockKey { namespace, name: LockName::parse(&*lock.name).map_err(|error| error.to_string())? })
}

fn holder_info(holder: &Holder) -> HolderInfo {
    HolderInfo {
        account: holder.account,
        owner: holder.owner.as_ref().map(|owner| Owner::as_str(owner).to_owned()),
        note: holder.note.as_str().to_owned(),
        token_label: holder.label.as_str().to_owned(),
        fencing_token: holder.fence.as_u64(),
        acquired_at: holder.acquired_at.as_millisecond(),
        expires_at: holder.expires_at.as_millisecond(),
    }
}
