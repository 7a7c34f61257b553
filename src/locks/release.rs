use std::time::Duration;

use super::{
    GrantEnd, Locks, LocksError,
    grant_codec::read_acquirer,
    requests::{Keys, ReleaseRequest, WithRate, read_rate_status, script, write_fence, write_rate},
    script_args::ScriptArgs,
    settled::Deadline,
};
use crate::{
    lock::{ByAnother, FencingToken, Label, NotHeld, RateCharge, ReleaseOutcome},
    store::{Reply, Script},
};

static RELEASE: Script =
    script!("release" = "grant_codec" "keys" "release" "entries" "queue" "tombstone" "release_slow");

impl Locks {
    /// Releases a lock if the claimant holds it, and hands it over to the first queue entry.
    /// If the owner itself waits for the lock, its request is cancelled.
    ///
    /// # Errors
    /// The store returned no answer in time; the lock may be released.
    pub async fn release(&self, request: &ReleaseRequest) -> Result<WithRate<ReleaseOutcome>, LocksError> {
        let lock_key = request.lock.lock_key();
        let shard = self.store.shard_of(&lock_key);
        let deadline = self.deadline(shard)?;
        let mut reply = self.run_release(request, &lock_key, deadline).await?;
        while deadline.should_retry(&reply, &request.charge).await {
            reply = Box::pin(self.run_release(request, &lock_key, deadline)).await?;
        }
        Self::count("release", &reply);
        let mut by_another = None;
        if reply.status() == "released" {
            let fence = reply.word(2)?;
            self.history_buffer.ended(
                request.claimant.account,
                &lock_key,
                fence,
                (self.now_ms(shard), GrantEnd::Released),
            );
            self.journal_end_in_background(request.claimant.account, lock_key, fence, reply.word(3)?);
            if !reply.text(4)?.is_empty() {
                self.poll_queue_in_background(request.lock.clone());
            }
            by_another = read_by_another(request, reply.text(5)?, fence);
        } else if matches!(reply.status(), "not_held" | "held_by_another") && reply.texts(2).next().is_some() {
            self.journal_end_in_background(request.claimant.account, lock_key, reply.word(2)?, reply.word(3)?);
        }
        let outcome = match by_another {
            Some(by_another) => ReleaseOutcome::ByAnother(by_another),
            None => read_outcome(&reply)?,
        };
        Ok(WithRate { outcome, rate: read_rate_status(&reply, &request.charge)? })
    }

    async fn run_release(
        &self,
        request: &ReleaseRequest,
        lock_key: &str,
        deadline: Deadline,
    ) -> Result<Reply, LocksError> {
        let account = request.claimant.account.key_text();
        let mut keys = Keys::minimal(&self.store, lock_key, account.as_str());
        let mut args = ScriptArgs::new();
        args.write(|text| request.claimant.write_holder_prefix(text))
            .text(lock_key)
            .write(|text| write_fence(text, request.fence))
            .number(deadline.us);
        // A waiter of this server needs the hand-over, which takes all keys: skip the first try.
        if request.charge == RateCharge::Done && !self.waiters.has_waiters(&request.lock) {
            let reply = deadline.settled(self.store.eval(&RELEASE, &keys.slices(), &args.slices()).await).await?;
            if Keys::were_sufficient(&reply) {
                return Ok(reply);
            }
        }
        keys.add_remaining(&self.store, lock_key, account.as_str(), &request.charge);
        write_rate(&mut args, &request.charge);
        // Boxed: the future would add its size to every request.
        deadline.settled(Box::pin(self.store.eval(&RELEASE, &keys.slices(), &args.slices())).await).await
    }
}

/// The acquiring token of a grant that another token released. `None` if the same token
/// acquired it, and for grants of earlier versions, which do not store the token.
fn read_by_another(request: &ReleaseRequest, acquirer: &str, fence: FencingToken) -> Option<Box<ByAnother>> {
    if acquirer.ends_with(request.token.as_str()) {
        return None;
    }
    let (label, token_end) = read_acquirer(acquirer);
    let label = Label::parse(label).ok().filter(|_| !token_end.is_empty())?;
    Some(Box::new(ByAnother { fence, label, token_end: token_end.to_owned() }))
}

fn read_outcome(reply: &Reply) -> Result<ReleaseOutcome, LocksError> {
    Ok(match reply.status() {
        "released" => ReleaseOutcome::Released,
        "not_held" => ReleaseOutcome::Refused(NotHeld::Free),
        "held_by_another" => ReleaseOutcome::Refused(NotHeld::HeldByAnother),
        "rate_limited" => ReleaseOutcome::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
        "unsettled" => return Err(LocksError::Unsettled),
        "late" => return Err(LocksError::TooLate),
        _ => return Err(reply.bad().into()),
    })
}
