//! What operators ask of servers about locks, by way of the account database.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{App, Breaking};
use crate::{
    accounts::{AccountsError, Actor, HolderInfo, NamedLock, OperatorAnswer, OperatorRequest, TakenRequest},
    lock::{AccountId, BreakOutcome, Holder, LockName, Owner, Payment, Standing},
    locks::{BreakRequest, ListRequest, LockId, Locks, LocksError, Looked},
};

/// How many pages of locks of a deleted account are released; what is left lapses.
const PAGES_MAX: usize = 200;
/// How long to wait before a request is tried again that has to be carried out.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often.
const TRIES_MAX: usize = 60;

impl App {
    /// Carries out what operators ask, until `stop`.
    pub async fn serve_operators(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.directory.changes();
        let work = async {
            loop {
                match self.database.take_operator_requests().await {
                    Ok(taken) => {
                        for taken in taken {
                            // Beside the others: one may have many locks to release.
                            tokio::spawn(self.clone().carry_out(taken));
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "requests of operators cannot be read");
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

    async fn carry_out(self: Arc<Self>, TakenRequest { id, request }: TakenRequest) {
        let answer = match request {
            OperatorRequest::Show { lock } => self.show(&lock).await,
            OperatorRequest::Break { lock, fencing_token } => self.break_for_operator(&lock, fencing_token).await,
            OperatorRequest::ReleaseAll { account } => self.release_all(account).await,
        };
        let answer = answer.unwrap_or_else(|reason| OperatorAnswer::Failed { reason });
        if let Err(error) = self.database.answer_operator(&id, &answer).await {
            tracing::warn!(%error, "an operator is not answered");
        }
    }

    async fn show(&self, lock: &NamedLock) -> Result<OperatorAnswer, String> {
        let Standing { held, waiting, .. } = self.standing(lock).await?;
        let holder = held.map(|held| held.holder);
        if let Some(holder) = &holder {
            let detail = json!({ "namespace": lock.namespace, "name": lock.name, "fencing_token": holder.fence });
            let recorded = async {
                self.directory.record(Actor::Operator, holder.account, "lock.show", detail).await?.commit().await
            };
            recorded.await.map_err(|error: AccountsError| error.to_string())?;
        }
        Ok(OperatorAnswer::Shown { holder: holder.as_ref().map(info), waiting })
    }

    async fn break_for_operator(self: &Arc<Self>, lock: &NamedLock, fence: u64) -> Result<OperatorAnswer, String> {
        let holder = self.standing(lock).await?.held.map(|held| held.holder);
        let Some(holder) = holder.filter(|holder| holder.fence.as_u64() == fence) else {
            return Ok(OperatorAnswer::Broken { broken: false });
        };
        let breaking = Breaking {
            by: Actor::Operator,
            by_label: "operator".into(),
            lock: id_of(lock)?,
            namespace: lock.namespace.clone(),
            holder,
        };
        let broken = self.break_grant(breaking).await.map_err(|error| error.to_string())?;
        Ok(OperatorAnswer::Broken { broken: broken == BreakOutcome::Broken })
    }

    async fn release_all(&self, account: AccountId) -> Result<OperatorAnswer, String> {
        for _ in 0..TRIES_MAX {
            match release_all(&self.locks, account).await {
                Ok(()) => return Ok(OperatorAnswer::Released),
                Err(error) => tracing::debug!(%error, "locks of a deleted account are not released yet"),
            }
            sleep(RETRY_PAUSE).await;
        }
        tracing::warn!("locks of a deleted account are left to lapse");
        Err("the lock store could not be asked".into())
    }

    async fn standing(&self, lock: &NamedLock) -> Result<Standing, String> {
        let looked = self.locks.inspect(&id_of(lock)?, None, &Payment::Paid).await;
        match looked.map_err(|error| error.to_string())?.outcome {
            Looked::Found(standing) => Ok(standing),
            // What is paid for is not limited.
            Looked::RateLimited { .. } => Err("the rate is used up".into()),
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

fn id_of(lock: &NamedLock) -> Result<LockId, String> {
    let namespace = lock.namespace_id.parse().map_err(|_| format!("{:?} is no namespace", lock.namespace_id))?;
    Ok(LockId { namespace, name: LockName::parse(&*lock.name).map_err(|error| error.to_string())? })
}

fn info(holder: &Holder) -> HolderInfo {
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
