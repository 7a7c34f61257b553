use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics::counter;
use serde_json::{Value, json};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use uuid::Uuid;

use crate::{
    accounts::{AccountsError, Actor, TokenCache},
    limits::{ActionRateLimiter, LimitedAction},
    lock::{AccountId, ByAnother, Label, LockName, Owner},
    locks::Claimant,
};

/// Records releases by a token other than the acquiring one in the audit log, in the background.
pub struct ReleaseAudit(Arc<AuditState>);

struct AuditState {
    token_cache: Arc<TokenCache>,
    action_rates: ActionRateLimiter,
    /// Permits of records in progress or queued.
    pending: Arc<Semaphore>,
    /// Limits writing to one record at a time, so that other requests get database connections.
    writing: Semaphore,
    /// Accounts over their rate, until the given time.
    over_rate: Mutex<HashMap<AccountId, Instant>>,
}

/// A release by a token other than the one that acquired the lock.
#[derive(Clone, Debug)]
pub struct ReleaseByOtherToken {
    pub by: Uuid,
    pub by_label: Label,
    pub claimant: Claimant,
    /// The name of the lock's namespace.
    pub namespace: String,
    pub name: LockName,
    pub acquired: ByAnother,
}

impl ReleaseAudit {
    /// The maximum of pending records; further releases are only counted.
    const PENDING_MAX: u32 = 256;
    /// The longest wait of a stopping server for pending records.
    const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

    pub fn new(token_cache: Arc<TokenCache>, action_rates: ActionRateLimiter) -> Self {
        Self(Arc::new(AuditState {
            token_cache,
            action_rates,
            pending: Arc::new(Semaphore::new(Self::PENDING_MAX as usize)),
            writing: Semaphore::new(1),
            over_rate: Mutex::default(),
        }))
    }

    /// Records a release, unless the account is over its rate or too many records are pending.
    pub fn record(&self, release: ReleaseByOtherToken) {
        let state = self.0.clone();
        let permit = match state.is_over_rate(release.claimant.account) {
            true => None,
            false => state.pending.clone().try_acquire_owned().ok(),
        };
        let Some(permit) = permit else { return count_unrecorded() };
        tokio::spawn(async move {
            state.record(release).await;
            drop(permit);
        });
    }

    /// Waits for the pending records. Call it after the last release.
    pub async fn flush(&self) {
        if timeout(Self::FLUSH_TIMEOUT, self.0.pending.acquire_many(Self::PENDING_MAX)).await.is_err() {
            tracing::warn!("stopped before all releases by other tokens were in the audit log");
        }
    }
}

impl AuditState {
    /// The size of `over_rate` beyond which outdated entries are removed.
    const OVER_RATE_MAX: usize = 10_000;

    async fn record(&self, release: ReleaseByOtherToken) {
        let Ok(_writing) = self.writing.acquire().await else { return };
        let account = release.claimant.account;
        // Limited, because each row is permanent. If the limiter is unavailable, the release is recorded.
        if let Ok(Some(retry_after)) = self.action_rates.count(LimitedAction::ReleaseOf(account)).await {
            self.set_over_rate(account, Instant::now() + retry_after);
            return count_unrecorded();
        }
        let recorded = async {
            let by = Actor::Token(release.by);
            let recording = self.token_cache.record(by, account, "lock.release", release.detail()).await?;
            recording.commit().await
        };
        let recorded: Result<(), AccountsError> = recorded.await;
        if let Err(error) = recorded {
            tracing::warn!(%error, token = %release.by, "cannot record a release by another token in the audit log");
            count_unrecorded();
        }
    }

    fn is_over_rate(&self, account: AccountId) -> bool {
        let over_rate = self.over_rate.lock().unwrap_or_else(PoisonError::into_inner);
        over_rate.get(&account).is_some_and(|until| Instant::now() < *until)
    }

    fn set_over_rate(&self, account: AccountId, until: Instant) {
        let mut over_rate = self.over_rate.lock().unwrap_or_else(PoisonError::into_inner);
        if over_rate.len() >= Self::OVER_RATE_MAX {
            let now = Instant::now();
            over_rate.retain(|_, until| now < *until);
        }
        over_rate.insert(account, until);
    }
}

fn count_unrecorded() {
    counter!("lockable_releases_unrecorded_total").increment(1);
}

impl ReleaseByOtherToken {
    /// The detail of the audit record.
    fn detail(&self) -> Value {
        json!({
            "by": self.by_label,
            "namespace": self.namespace,
            "name": self.name.as_str(),
            "holder": {
                "owner": self.claimant.owner.as_ref().map(Owner::as_str),
                "token_label": self.acquired.label,
                "token_end": self.acquired.token_end,
                "fencing_token": self.acquired.fence,
            },
        })
    }
}
