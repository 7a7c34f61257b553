use std::time::Duration;

use super::{
    Ending, Locks, LocksError,
    grant_codec::read_acquirer,
    requests::{Answer, Keys, ReleaseRequest, read_standing, script, write_fence, write_rate},
    script_args::Words,
    settled::Deadline,
};
use crate::{
    lock::{ByAnother, FencingToken, Label, NotHeld, Payment, ReleaseOutcome},
    store::{Reply, Script},
};

static RELEASE: Script =
    script!("release" = "grant_codec" "keys" "release" "entries" "queue" "tombstone" "release_slow");

impl Locks {
    /// Releases a lock, if the claimant holds it; the first in line has it then.
    /// An owner that stands in line itself leaves it.
    ///
    /// # Errors
    /// When the store gave no answer in time; the lock may be released then.
    pub async fn release(&self, request: &ReleaseRequest) -> Result<Answer<ReleaseOutcome>, LocksError> {
        let lock_key = request.lock.lock_key();
        let shard = self.store.shard_of(&lock_key);
        let deadline = self.deadline(shard)?;
        let mut reply = self.ask_release(request, &lock_key, deadline).await?;
        while deadline.is_to_repeat(&reply, &request.payment).await {
            reply = Box::pin(self.ask_release(request, &lock_key, deadline)).await?;
        }
        Self::count("release", &reply);
        let mut by_another = None;
        if reply.status() == "released" {
            let fence = reply.word(2)?;
            self.recorder.ended(request.claimant.account, &lock_key, fence, (self.now_ms(shard), Ending::Released));
            self.end_in_background(request.claimant.account, lock_key, fence, reply.word(3)?);
            if !reply.text(4)?.is_empty() {
                self.look_in_background(request.lock.clone());
            }
            by_another = read_by_another(request, reply.text(5)?, fence);
        }
        let outcome = match by_another {
            Some(by_another) => ReleaseOutcome::ByAnother(by_another),
            None => read_released(&reply)?,
        };
        Ok(Answer { outcome, standing: read_standing(&reply, &request.payment)? })
    }

    async fn ask_release(
        &self,
        request: &ReleaseRequest,
        lock_key: &str,
        deadline: Deadline,
    ) -> Result<Reply, LocksError> {
        let account = request.claimant.account.key_text();
        let mut keys = Keys::few(&self.store, lock_key, account.as_str());
        let mut args = Words::new();
        args.write(|text| request.claimant.write_head(text))
            .text(lock_key)
            .write(|text| write_fence(text, request.fence))
            .number(deadline.us);
        // Whoever waits here is to have the lock at once.
        if request.payment == Payment::Paid && !self.waiters.has_line(&request.lock) {
            let reply = deadline.settled(self.store.run(&RELEASE, &keys.slices(), &args.slices()).await).await?;
            if Keys::were_enough(&reply) {
                return Ok(reply);
            }
        }
        keys.complete(&self.store, lock_key, account.as_str(), &request.payment);
        write_rate(&mut args, &request.payment);
        // Boxed: its room would be taken in every request.
        deadline.settled(Box::pin(self.store.run(&RELEASE, &keys.slices(), &args.slices())).await).await
    }
}

/// Nothing for a grant of the token that releases it, and for one that an earlier version has
/// made.
fn read_by_another(request: &ReleaseRequest, acquirer: &str, fence: FencingToken) -> Option<Box<ByAnother>> {
    if acquirer.ends_with(request.token.as_str()) {
        return None;
    }
    let (label, token_end) = read_acquirer(acquirer);
    let label = Label::parse(label).ok().filter(|_| !token_end.is_empty())?;
    Some(Box::new(ByAnother { fence, label, token_end: token_end.to_owned() }))
}

fn read_released(reply: &Reply) -> Result<ReleaseOutcome, LocksError> {
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
