use std::time::Duration;

use super::{
    Locks, LocksError,
    journal::Change,
    request::{AcquireRequest, Answer, Keys, read_standing, script, write_rate},
    stored::{read_held, read_time},
    undo::Undo,
    words::Words,
};
use crate::{
    keyspace::{KeyspaceError, Reply, Script},
    lock::{Acquired, Attempt, Grant, Held, Lease, Payment, Refusal},
};

static ACQUIRE: Script =
    script!("acquire" = "grant" "keys" "hold" "acquire" "ended" "hold_on" "tickets" "line" "places" "leave" "wait");

/// How an acquire stands that may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is decided.
    Over(Acquired),
    /// It is not, while somebody else holds the lock.
    Waiting(Held),
    /// It is not, since nothing is granted for so long.
    Recovering { rest: Duration },
    /// Another request of the same owner has its place.
    Replaced(Held),
    /// It does not stand in line, and the lock is not held for it.
    Gone,
    /// Its owner has released the lock meanwhile.
    Cancelled,
}

impl Locks {
    /// Tries to acquire a lock, without waiting for it.
    ///
    /// # Errors
    /// When the keyspace gave no answer in time. The lock is then not held, or
    /// not for longer than it takes to reach the keyspace again: nobody knows
    /// of a grant whose answer was lost, so it is taken back. The same is done
    /// when the future is dropped before it is ready.
    pub async fn acquire(&self, request: &AcquireRequest) -> Result<Answer<Acquired>, LocksError> {
        let attempt = Attempt::new();
        let undo = Undo::armed(self, request, attempt);
        let answer = match self.ask(request, attempt, Duration::ZERO).await {
            // Nothing was granted that would have to be taken back.
            Err(error) if error.is_sure() => {
                undo.disarm();
                return Err(error);
            }
            answer => answer?,
        };
        undo.disarm();
        let outcome = match answer.outcome {
            Turn::Over(acquired) => acquired,
            Turn::Waiting(held) | Turn::Replaced(held) => Acquired::Refused(Refusal::Held(held)),
            Turn::Cancelled => Acquired::Refused(Refusal::Cancelled),
            Turn::Recovering { rest } => Acquired::Refused(Refusal::Recovering { rest }),
            Turn::Gone => Acquired::Refused(Refusal::TimedOut(None)),
        };
        Ok(Answer { outcome, standing: answer.standing })
    }

    /// Asks for a lock once. Where somebody holds it, the attempt stands in line
    /// from then on if it is to wait, for that long. Whoever calls this sees to
    /// it that the attempt is withdrawn when its answer is lost.
    ///
    /// # Errors
    /// When the keyspace gave no answer in time, or a long lease could not be
    /// written down.
    pub async fn ask(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        wait: Duration,
    ) -> Result<Answer<Turn>, LocksError> {
        match self.keyspace.is_spread() {
            // Boxed: its room would be taken in every request, also without a cluster.
            true => Box::pin(self.ask_spread(request, attempt, wait)).await,
            false => self.ask_once(request, attempt, wait).await,
        }
    }

    /// The same, where the quotas in the request are those of the lock's shard.
    pub(super) async fn ask_once(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        wait: Duration,
    ) -> Result<Answer<Turn>, LocksError> {
        let account = request.claimant.account.key_text();
        let place = request.lock.place();
        let shard = self.keyspace.shard_of(&place);
        let deadline = self.deadline(shard)?;
        let is_long = self.is_long(request.lease);
        let mut keys = Keys::few(&self.keyspace, &place, account.as_str());
        let mut args = Words::new();
        args.write(|text| request.claimant.write_head(text))
            .text(&place)
            .number(request.lease.as_ms())
            .text(attempt.key_text().as_str())
            .number(deadline.us)
            .number(request.held_max)
            .write(|text| request.write_about(text));
        let era = self.era_for(shard);
        let few = if wait.is_zero() && !is_long && request.payment == Payment::Paid {
            Some(deadline.settled(self.keyspace.run_replicated(&ACQUIRE, &keys.slices(), &args.slices()).await).await?)
        } else {
            None
        };
        let reply = match few.filter(Keys::were_enough) {
            Some(reply) => reply,
            None => {
                keys.complete(&self.keyspace, &place, account.as_str(), &request.payment);
                args.number(self.keyspace.epoch_us(shard))
                    .number(wait.as_millis() as u64)
                    .text(&self.pod)
                    .number(request.waiting_max)
                    .text(if is_long { "1" } else { "" });
                write_rate(&mut args, &request.payment);
                // Boxed: its room would be taken in every request.
                deadline
                    .settled(Box::pin(self.keyspace.run_replicated(&ACQUIRE, &keys.slices(), &args.slices())).await)
                    .await?
            }
        };
        Self::count("acquire", &reply);
        let standing = read_standing(&reply, &request.payment)?;
        if reply.status() == "busy" {
            let paid = AcquireRequest { payment: Payment::Paid, ..request.clone() };
            let again = Box::pin(self.ask_once(&paid, attempt, wait)).await?;
            return Ok(Answer { outcome: again.outcome, standing });
        }
        let outcome = read_turn(&reply, 2, request.lease)?;
        if let Turn::Over(Acquired::Granted(grant) | Acquired::Again(grant)) = &outcome {
            self.keyspace.note_fence(shard, grant.fence.as_u64());
            if let Some(change) = Change::read(&reply, 4)? {
                let of = (&request.lock, &request.claimant);
                Box::pin(self.record_grant(era.as_ref(), of, grant, change)).await?;
            }
            self.recorder.granted(request, &place, grant);
        }
        Ok(Answer { outcome, standing })
    }
}

impl LocksError {
    /// Whether it is sure that nothing was done.
    pub fn is_sure(&self) -> bool {
        matches!(
            self,
            Self::TooLate
                | Self::Foreign
                | Self::Full
                | Self::Keyspace(KeyspaceError::NotSent(_) | KeyspaceError::Refused(_))
        )
    }
}

/// Reads how an acquire stands; what belongs to its status begins at `index`.
pub(super) fn read_turn(reply: &Reply, index: usize, lease: Lease) -> Result<Turn, LocksError> {
    let acquired = match reply.status() {
        status @ ("granted" | "again") => {
            let (fence, expires_at) = (reply.word(index)?, read_time(reply, index + 1)?);
            let grant = Grant { fence, lease, expires_at };
            if status == "again" { Acquired::Again(grant) } else { Acquired::Granted(grant) }
        }
        "held" | "in_line" => return Ok(Turn::Waiting(read_held(reply, index)?)),
        "recovering" => return Ok(Turn::Recovering { rest: Duration::from_millis(reply.word(index)?) }),
        "replaced" => return Ok(Turn::Replaced(read_held(reply, index)?)),
        "gone" => return Ok(Turn::Gone),
        "cancelled" => return Ok(Turn::Cancelled),
        "over_quota" => Acquired::Refused(Refusal::OverQuota { held: reply.word(index)? }),
        "too_many_waiting" => Acquired::Refused(Refusal::TooManyWaiting { waiting: reply.word(index)? }),
        "rate_limited" => {
            Acquired::Refused(Refusal::RateLimited { retry_after: Duration::from_micros(reply.word(index)?) })
        }
        "late" => return Err(LocksError::TooLate),
        _ => return Err(reply.bad().into()),
    };
    Ok(Turn::Over(acquired))
}
