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
    accounts::{AccountsError, Actor, Directory},
    limits::{Attempt, Attempts},
    lock::{AccountId, ByAnother, Label, LockName, Owner},
    locks::Claimant,
};

/// Records releases of grants that another token of the account has acquired, beside the
/// answers.
pub struct Releases(Arc<Parts>);

struct Parts {
    directory: Arc<Directory>,
    attempts: Attempts,
    /// Those that are recorded or wait for it.
    pending: Arc<Semaphore>,
    /// One at a time: the database is there for others.
    writing: Semaphore,
    /// Accounts that have used up their rate, and until when.
    over_rate: Mutex<HashMap<AccountId, Instant>>,
}

/// A release by another token than the one that had acquired the lock.
#[derive(Clone, Debug)]
pub struct ForeignRelease {
    pub by: Uuid,
    pub by_label: Label,
    pub claimant: Claimant,
    /// The name of the lock's namespace.
    pub namespace: String,
    pub name: LockName,
    pub acquired: ByAnother,
}

impl Releases {
    /// How many may wait to be recorded. What more there are is counted.
    const PENDING_MAX: u32 = 256;
    /// How long a server that stops waits for them.
    const FINISH_MAX: Duration = Duration::from_secs(2);

    pub fn new(directory: Arc<Directory>, attempts: Attempts) -> Self {
        Self(Arc::new(Parts {
            directory,
            attempts,
            pending: Arc::new(Semaphore::new(Self::PENDING_MAX as usize)),
            writing: Semaphore::new(1),
            over_rate: Mutex::default(),
        }))
    }

    /// Records a release in the audit log, unless the account has too many.
    pub fn record(&self, release: ForeignRelease) {
        let parts = self.0.clone();
        let permit = match parts.is_over_rate(release.claimant.account) {
            true => None,
            false => parts.pending.clone().try_acquire_owned().ok(),
        };
        let Some(permit) = permit else { return count_unrecorded() };
        tokio::spawn(async move {
            parts.record(release).await;
            drop(permit);
        });
    }

    /// Waits until what is pending is recorded, when no more comes.
    pub async fn finish(&self) {
        if timeout(Self::FINISH_MAX, self.0.pending.acquire_many(Self::PENDING_MAX)).await.is_err() {
            tracing::warn!("some releases by other tokens are not in the audit log");
        }
    }
}

impl Parts {
    /// Of how many accounts to remember that their rate is used up.
    const OVER_RATE_MAX: usize = 10_000;

    async fn record(&self, release: ForeignRelease) {
        let Ok(_writing) = self.writing.acquire().await else { return };
        let account = release.claimant.account;
        // Each row is kept for ever. When it cannot be counted, it is recorded all the same.
        if let Ok(Some(retry_after)) = self.attempts.refusal(Attempt::ReleaseOf(account)).await {
            self.note_over_rate(account, Instant::now() + retry_after);
            return count_unrecorded();
        }
        let recorded = async {
            let by = Actor::Token(release.by);
            let recording = self.directory.record(by, account, "lock.release", release.detail()).await?;
            recording.commit().await
        };
        let recorded: Result<(), AccountsError> = recorded.await;
        if let Err(error) = recorded {
            tracing::warn!(%error, token = %release.by, "a release by another token is not in the audit log");
            count_unrecorded();
        }
    }

    fn is_over_rate(&self, account: AccountId) -> bool {
        let over_rate = self.over_rate.lock().unwrap_or_else(PoisonError::into_inner);
        over_rate.get(&account).is_some_and(|until| Instant::now() < *until)
    }

    fn note_over_rate(&self, account: AccountId, until: Instant) {
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

impl ForeignRelease {
    /// What the audit log says of it.
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
