//! Reverts acquires whose answer was lost.

use std::time::Duration;

use tokio::{runtime::Handle, time};

use super::{
    GrantEnd, Locks, Reverted,
    requests::{AcquireRequest, Claimant, LockKey},
};
use crate::{
    lock::{Attempt, Lease},
    mends::{self, Mend},
};

/// Reverts an attempt when dropped, unless disarmed: a grant that its client never received
/// must not hold the lock for a lease, nor its queue entry delay others for a wait.
pub(super) struct RevertOnDrop<'a> {
    armed: Option<(&'a Locks, &'a AcquireRequest, Attempt)>,
}

struct RevertTask {
    locks: Locks,
    lock: LockKey,
    claimant: Claimant,
    attempt: Attempt,
    lease: Lease,
}

impl<'a> RevertOnDrop<'a> {
    pub(super) fn armed(locks: &'a Locks, request: &'a AcquireRequest, attempt: Attempt) -> Self {
        Self { armed: Some((locks, request, attempt)) }
    }

    pub(super) fn disarm(mut self) {
        self.armed = None;
    }
}

impl Drop for RevertOnDrop<'_> {
    fn drop(&mut self) {
        let Some((locks, request, attempt)) = self.armed.take() else { return };
        if !mends::is_on(Mend::CancelAfter503) {
            return;
        }
        // Without a runtime the process is about to exit; the lease expires.
        if let Ok(runtime) = Handle::try_current() {
            let task = RevertTask {
                locks: locks.clone(),
                lock: request.lock.clone(),
                claimant: request.claimant.clone(),
                attempt,
                lease: request.lease,
            };
            let tasks = task.locks.background_tasks.clone();
            tasks.spawn_on(locks.store.on_process(task.run()), &runtime);
        }
    }
}

impl RevertTask {
    const PAUSE_MIN: Duration = Duration::from_millis(50);
    const PAUSE_MAX: Duration = Duration::from_secs(2);

    /// Retries until the store answers or the lease has expired.
    async fn run(self) {
        let Ok(_permit) = self.locks.revert_permits.try_acquire() else {
            tracing::warn!("too many unanswered acquires; not reverting one, its grant expires with its lease");
            return;
        };
        let tries = async {
            if self.revert().await == Reverted::Absent {
                // The acquire may still be in flight on another connection. It changes nothing
                // after its deadline, so a second revert then is final.
                time::sleep(self.locks.store.timeout() + Self::PAUSE_MIN).await;
                self.revert().await;
            }
        };
        if time::timeout(self.lease.as_duration(), tries).await.is_err() {
            tracing::debug!("a grant whose answer was lost expired before it was reverted");
        }
    }

    /// Reverts the attempt, and retries until the store answers.
    async fn revert(&self) -> Reverted {
        let mut pause = Self::PAUSE_MIN;
        loop {
            match self.locks.revert(&self.lock, &self.claimant, self.attempt).await {
                Ok(reverted) => {
                    if let Reverted::Released(fence, until_ms) = reverted {
                        let (account, lock_key) = (self.claimant.account, self.lock.to_string());
                        let now_ms = self.locks.now_ms(self.locks.store.shard_of(&lock_key));
                        self.locks.history_buffer.ended(account, &lock_key, fence, (now_ms, GrantEnd::Reverted));
                        self.locks.journal_end_in_background(account, lock_key, fence, until_ms);
                    }
                    return reverted;
                }
                Err(error) => tracing::debug!(%error, "cannot revert an unanswered acquire yet"),
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(Self::PAUSE_MAX);
        }
    }
}
