use std::time::Duration;

use super::{
    Locks, LocksError,
    grant_codec::read_time,
    journal::Change,
    requests::{HeartbeatRequest, Keys, RenewedLease, WithRate, read_rate_status, script, write_fence, write_rate},
    script_args::{KeySlices, ScriptArgs},
};
use crate::{
    lock::{Grant, HeartbeatOutcome, Lease, NotHeld, RateCharge},
    store::{Reply, Script},
};

static HEARTBEAT: Script = script!("heartbeat" = "grant_codec" "heartbeat");

impl Locks {
    /// Renews the lease of a lock if the claimant holds it.
    ///
    /// # Errors
    /// The store returned no answer in time; the lease may be renewed.
    pub async fn heartbeat(&self, request: &HeartbeatRequest) -> Result<WithRate<HeartbeatOutcome>, LocksError> {
        let account = request.claimant.account.key_text();
        let lock_key = request.lock.lock_key();
        let shard = self.store.shard_of(&lock_key);
        let deadline = self.deadline(shard)?;
        let epoch = self.epoch_for(shard);
        let keys = Keys::minimal(&self.store, &lock_key, account.as_str());
        let mut keys = KeySlices::from_iter([keys.lock(), keys.held(), keys.clock()]);
        if let RateCharge::InScript(bucket) = &request.charge {
            keys.push(&bucket.key);
        }
        let mut args = ScriptArgs::new();
        args.write(|text| request.claimant.write_holder_prefix(text))
            .text(&lock_key)
            .write(|text| self.write_lease(text, request.lease))
            .write(|text| write_fence(text, request.fence))
            .number(deadline.us)
            .text(if matches!(request.lease, RenewedLease::For(lease) if self.is_long(lease)) { "1" } else { "" })
            .number(self.store.epoch_us(shard));
        write_rate(&mut args, &request.charge);
        let reply = loop {
            let reply = deadline.settled(self.store.eval_replicated(&HEARTBEAT, &keys, &args.slices()).await).await?;
            if !deadline.should_retry(&reply, &request.charge).await {
                break reply;
            }
        };
        Self::count("heartbeat", &reply);
        let mut outcome = read_outcome(&reply)?;
        if let HeartbeatOutcome::Renewed(grant) = &mut outcome
            && let Some(change) = Change::read(&reply, 5)?
        {
            let of = (&request.lock, &request.claimant);
            if !Box::pin(self.journal_renewal(epoch.as_ref(), of, grant, change)).await {
                outcome = HeartbeatOutcome::Refused(NotHeld::Free);
            }
        }
        if matches!(outcome, HeartbeatOutcome::Refused(_)) {
            Self::count_expiry("holder");
        }
        Ok(WithRate { outcome, rate: read_rate_status(&reply, &request.charge)? })
    }

    /// Encodes the lease of a heartbeat for `lua/heartbeat.lua`.
    fn write_lease(&self, text: &mut String, lease: RenewedLease) {
        let mut number = itoa::Buffer::new();
        match lease {
            RenewedLease::For(lease) => text.push_str(number.format(lease.as_ms())),
            RenewedLease::LastAsked { default, max } => {
                for (before, lease) in [('?', default), (' ', max), (' ', self.journal_above)] {
                    text.push(before);
                    text.push_str(number.format(lease.as_ms()));
                }
            }
        }
    }
}

fn read_outcome(reply: &Reply) -> Result<HeartbeatOutcome, LocksError> {
    Ok(match reply.status() {
        "renewed" => HeartbeatOutcome::Renewed(Grant {
            fence: reply.word(2)?,
            lease: Lease::from_ms(reply.word(4)?),
            expires_at: read_time(reply, 3)?,
        }),
        "not_held" => HeartbeatOutcome::Refused(NotHeld::Free),
        "held_by_another" => HeartbeatOutcome::Refused(NotHeld::HeldByAnother),
        "rate_limited" => HeartbeatOutcome::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
        "unsettled" => return Err(LocksError::Unsettled),
        "late" => return Err(LocksError::TooLate),
        _ => return Err(reply.bad().into()),
    })
}
