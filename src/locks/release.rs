use std::time::Duration;

use super::{
    Locks, LocksError,
    request::{Answer, Claimant, Keys, LockId, ReleaseRequest, rate_args, read_standing, script},
};
use crate::{
    keyspace::{Keyspace, KeyspaceError, Reply, Script},
    lock::{Attempt, Fence, NotHeld, Payment, Released},
};

static RELEASE: Script = script!("release");

impl Locks {
    /// Releases a lock, if the claimant holds it.
    ///
    /// # Errors
    /// When the keyspace gave no answer in time; the lock may be released then.
    pub async fn release(&self, request: &ReleaseRequest) -> Result<Answer<Released>, LocksError> {
        let deadline_us = self.deadline_us()?;
        let ReleaseRequest { lock, claimant, fence, payment } = request;
        let reply = run_release(&self.keyspace, lock, claimant, *fence, None, deadline_us, payment).await?;
        Ok(Answer { outcome: read_released(&reply)?, standing: read_standing(&reply, payment)? })
    }
}

/// Takes back what one attempt was granted, however late: no other grant is
/// touched.
pub(super) async fn release_attempt(
    keyspace: &Keyspace,
    lock: &LockId,
    claimant: &Claimant,
    attempt: Attempt,
) -> Result<(), KeyspaceError> {
    run_release(keyspace, lock, claimant, None, Some(attempt), Fence::MAX, &Payment::Paid).await.map(drop)
}

async fn run_release(
    keyspace: &Keyspace,
    lock: &LockId,
    claimant: &Claimant,
    fence: Option<Fence>,
    attempt: Option<Attempt>,
    deadline_us: u64,
    payment: &Payment,
) -> Result<Reply, KeyspaceError> {
    let account = claimant.account.to_string();
    let place = lock.to_string();
    let keys = Keys::new(keyspace, &place, &account, payment);
    let [interval_us, burst_us] = rate_args(payment);
    let args = [
        &*interval_us,
        &burst_us,
        &account,
        claimant.owner_text(),
        &place,
        &fence.map(|fence| fence.to_string()).unwrap_or_default(),
        &attempt.map(|attempt| attempt.to_string()).unwrap_or_default(),
        &deadline_us.to_string(),
    ];
    keyspace.run(&RELEASE, &[&keys.lock, &keys.held, &keys.bucket], &args).await
}

fn read_released(reply: &Reply) -> Result<Released, LocksError> {
    Ok(match reply.status() {
        "released" => Released::Released,
        "not_held" => Released::Refused(NotHeld::Free),
        "held_by_another" => Released::Refused(NotHeld::HeldByAnother),
        "rate_limited" => Released::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
        "late" => return Err(LocksError::TooLate),
        _ => return Err(reply.bad().into()),
    })
}
