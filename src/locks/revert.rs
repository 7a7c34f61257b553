//! Reverts acquires whose answer was lost.

use std::time::Duration;

use tokio::{runtime::Handle, time};

use super::{
    GrantEnd, Locks, Reverted,
    requests::{AcquireRequest, Claimant, LockKey},
};
use crate::{
    lock::{Attempt, Lease},
    safeguards::{self, Safeguard},
};

/// Reverts an attempt when dropped, unless disarmed: a grant that its client never received
/// must not hold the lock for a lease, nor its queue entry delay others for a wait.
pub(super) struct RevertOnDrop<'a> {
    armed: Option<(&'a Locks, &'a AcquireRequest, Attempt)>,
}

/// Reverts an attempt when dropped, unless cancelled: until its connection has shown that the
/// client still listens, a grant must not be relied on.
#[must_use]
pub struct PendingRevert(Option<RevertTask>);

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

    /// Postpones the decision: the returned value borrows nothing.
    pub(super) fn postpone(mut self) -> PendingRevert {
        PendingRevert(self.take_task())
    }

    fn take_task(&mut self) -> Option<RevertTask> {
        let (locks, request, attempt) = self.armed.take()?;
        Some(RevertTask {
            locks: locks.clone(),
            lock: request.lock.clone(),
            claimant: request.claimant.clone(),
            attempt,
            lease: request.lease,
        })
    }
}

impl PendingRevert {
    /// Keeps the grant.
    pub fn cancel(mut self) {
        self.0 = None;
    }
}

impl Drop for RevertOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(task) = self.take_task() {
            task.spawn();
        }
    }
}

impl Drop for PendingRevert {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.spawn();
        }
    }
}

impl RevertTask {
    const PAUSE_MIN: Duration = Duration::from_millis(50);
    const PAUSE_MAX: Duration = Duration::from_secs(2);

    fn spawn(self) {
        if !safeguards::is_on(Safeguard::CancelAfter503) {
            return;
        }
        // Without a runtime the process is about to exit; the lease expires.
        if let Ok(runtime) = Handle::try_current() {
            let locks = self.locks.clone();
            locks.background_tasks.spawn_on(locks.store.on_process(self.run()), &runtime);
        }
    }

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
