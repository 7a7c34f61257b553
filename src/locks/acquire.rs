use std::time::Duration;

use super::{
    Locks, LocksError,
    request::{AcquireRequest, Answer, Keys, rate_args, read_standing, script},
    stored::{read_holder, read_time},
    undo::Undo,
};
use crate::{
    keyspace::{KeyspaceError, Reply, Script},
    lock::{Acquired, Attempt, Grant, Lease, Refusal},
};

static ACQUIRE: Script = script!("acquire");

impl Locks {
    /// Tries to acquire a lock.
    ///
    /// # Errors
    /// When the keyspace gave no answer in time. The lock is then not held, or
    /// not for longer than it takes to reach the keyspace again: nobody knows
    /// of a grant whose answer was lost, so it is taken back. The same is done
    /// when the future is dropped before it is ready.
    pub async fn acquire(&self, request: &AcquireRequest) -> Result<Answer<Acquired>, LocksError> {
        let attempt = Attempt::new();
        let deadline_us = self.deadline_us()?;
        let undo = Undo::armed(self, request, attempt);
        let reply = match self.run_acquire(request, attempt, deadline_us).await {
            Ok(reply) => reply,
            Err(error @ KeyspaceError::NoAnswer(_)) => return Err(error.into()),
            // Nothing was granted that would have to be taken back.
            Err(error @ (KeyspaceError::NotSent(_) | KeyspaceError::Refused(_))) => {
                undo.disarm();
                return Err(error.into());
            }
        };
        let outcome = read_acquired(&reply, request.lease)?;
        undo.disarm();
        Ok(Answer { outcome, standing: read_standing(&reply, &request.payment)? })
    }

    async fn run_acquire(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        deadline_us: u64,
    ) -> Result<Reply, KeyspaceError> {
        let account = request.claimant.account.to_string();
        let place = request.lock.to_string();
        let keys = Keys::new(&self.keyspace, &place, &account, &request.payment);
        let [interval_us, burst_us] = rate_args(&request.payment);
        let args = [
            &*interval_us,
            &burst_us,
            &account,
            request.claimant.owner_text(),
            &place,
            &request.lease.as_ms().to_string(),
            &attempt.to_string(),
            &deadline_us.to_string(),
            &request.held_max.to_string(),
            request.label.as_str(),
            request.note.as_str(),
        ];
        self.keyspace.run_replicated(&ACQUIRE, &[&keys.lock, &keys.clock, &keys.held, &keys.bucket], &args).await
    }
}

fn read_acquired(reply: &Reply, lease: Lease) -> Result<Acquired, LocksError> {
    Ok(match reply.status() {
        "granted" => Acquired::Granted(Grant { fence: reply.word(2)?, lease, expires_at: read_time(reply, 3)? }),
        "held" => {
            let rest = Duration::from_millis(reply.word(2)?);
            Acquired::Refused(Refusal::Held { holder: read_holder(reply, 4, 3)?, rest })
        }
        "over_quota" => Acquired::Refused(Refusal::OverQuota { held: reply.word(2)? }),
        "rate_limited" => {
            Acquired::Refused(Refusal::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) })
        }
        "late" => return Err(LocksError::TooLate),
        _ => return Err(reply.bad().into()),
    })
}
