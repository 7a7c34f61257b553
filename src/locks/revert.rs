use std::time::Duration;

use tokio::{runtime::Handle, time};

use super::{
    Ending, Locks, Withdrawn,
    requests::{AcquireRequest, Claimant, LockId},
};
use crate::{
    lock::{Attempt, Lease},
    mends::{self, Mend},
};

/// Withdraws an attempt when it is dropped, unless disarmed before: a grant whose
/// answer nobody has must not stay for a lease, nor a lock key in line for a wait.
pub(super) struct Undo<'a> {
    armed: Option<(&'a Locks, &'a AcquireRequest, Attempt)>,
}

struct Undoing {
    locks: Locks,
    lock: LockId,
    claimant: Claimant,
    attempt: Attempt,
    lease: Lease,
}

impl<'a> Undo<'a> {
    pub(super) fn armed(locks: &'a Locks, request: &'a AcquireRequest, attempt: Attempt) -> Self {
        Self { armed: Some((locks, request, attempt)) }
    }

    pub(super) fn disarm(mut self) {
        self.armed = None;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let Some((locks, request, attempt)) = self.armed.take() else { return };
        if !mends::is_on(Mend::CancelAfter503) {
            return;
        }
        // Without a runtime the process is about to end; the lease will lapse.
        if let Ok(runtime) = Handle::try_current() {
            let undoing = Undoing {
                locks: locks.clone(),
                lock: request.lock.clone(),
                claimant: request.claimant.clone(),
                attempt,
                lease: request.lease,
            };
            let tasks = undoing.locks.undo_tasks.clone();
            tasks.spawn_on(locks.store.on_process(undoing.run()), &runtime);
        }
    }
}

impl Undoing {
    const PAUSE_MIN: Duration = Duration::from_millis(50);
    const PAUSE_MAX: Duration = Duration::from_secs(2);

    /// Tries until the store answers, at the longest until the lease has
    /// lapsed by itself.
    async fn run(self) {
        let Ok(_place) = self.locks.undoings.try_acquire() else {
            tracing::warn!("too many acquires without an answer: their grants are left to lapse");
            return;
        };
        let tries = async {
            if self.withdraw().await == Withdrawn::Absent {
                // It may be on its way yet, by another connection; what comes
                // after its deadline does nothing.
                time::sleep(self.locks.store.timeout() + Self::PAUSE_MIN).await;
                self.withdraw().await;
            }
        };
        if time::timeout(self.lease.as_duration(), tries).await.is_err() {
            tracing::debug!("a grant whose answer was lost lapsed before it could be taken back");
        }
    }

    /// Withdraws the attempt, trying until the store answers. Returns what there
    /// was of it.
    async fn withdraw(&self) -> Withdrawn {
        let mut pause = Self::PAUSE_MIN;
        loop {
            match self.locks.withdraw(&self.lock, &self.claimant, self.attempt).await {
                Ok(withdrawn) => {
                    if let Withdrawn::Released(fence, until_ms) = withdrawn {
                        let (account, lock_key) = (self.claimant.account, self.lock.to_string());
                        let now_ms = self.locks.now_ms(self.locks.store.shard_of(&lock_key));
                        self.locks.recorder.ended(account, &lock_key, fence, (now_ms, Ending::TakenBack));
                        self.locks.end_in_background(account, lock_key, fence, until_ms);
                    }
                    return withdrawn;
                }
                Err(error) => tracing::debug!(%error, "an attempt could not be withdrawn yet"),
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(Self::PAUSE_MAX);
        }
    }
}
