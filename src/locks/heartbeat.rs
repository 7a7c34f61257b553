use std::time::Duration;

use super::{
    Locks, LocksError,
    grant_codec::read_time,
    journal::Change,
    requests::{Answer, HeartbeatRequest, Keys, RenewedLease, read_standing, script, write_fence, write_rate},
    script_args::{KeySlices, Words},
};
use crate::{
    lock::{Grant, HeartbeatOutcome, Lease, NotHeld, Payment},
    store::{Reply, Script},
};

static HEARTBEAT: Script = script!("heartbeat" = "grant_codec" "heartbeat");

impl Locks {
    /// Renews the lease of a lock, if the claimant holds it.
    ///
    /// # Errors
    /// When the store gave no answer in time; the lease may be renewed then.
    pub async fn heartbeat(&self, request: &HeartbeatRequest) -> Result<Answer<HeartbeatOutcome>, LocksError> {
        let account = request.claimant.account.key_text();
        let lock_key = request.lock.lock_key();
        let shard = self.store.shard_of(&lock_key);
        let deadline = self.deadline(shard)?;
        let epoch = self.era_for(shard);
        let keys = Keys::few(&self.store, &lock_key, account.as_str());
        let mut keys = KeySlices::from_iter([keys.lock(), keys.held(), keys.clock()]);
        if let Payment::Due(due) = &request.payment {
            keys.push(&due.bucket);
        }
        let mut args = Words::new();
        args.write(|text| request.claimant.write_head(text))
            .text(&lock_key)
            .write(|text| self.write_lease(text, request.lease))
            .write(|text| write_fence(text, request.fence))
            .number(deadline.us)
            .text(if matches!(request.lease, RenewedLease::For(lease) if self.is_long(lease)) { "1" } else { "" })
            .number(self.store.epoch_us(shard));
        write_rate(&mut args, &request.payment);
        let reply = loop {
            let reply = deadline.settled(self.store.run_replicated(&HEARTBEAT, &keys, &args.slices()).await).await?;
            if !deadline.is_to_repeat(&reply, &request.payment).await {
                break reply;
            }
        };
        Self::count("heartbeat", &reply);
        let mut outcome = read_heartbeaten(&reply)?;
        if let HeartbeatOutcome::Renewed(grant) = &mut outcome
            && let Some(change) = Change::read(&reply, 5)?
        {
            let of = (&request.lock, &request.claimant);
            if !Box::pin(self.record_renewal(epoch.as_ref(), of, grant, change)).await {
                outcome = HeartbeatOutcome::Refused(NotHeld::Free);
            }
        }
        if matches!(outcome, HeartbeatOutcome::Refused(_)) {
            Self::count_lapse("holder");
        }
        Ok(Answer { outcome, standing: read_standing(&reply, &request.payment)? })
    }

    /// Writes the lease of a heartbeat as `lua/heartbeat.lua` takes it.
    fn write_lease(&self, text: &mut String, lease: RenewedLease) {
        let mut number = itoa::Buffer::new();
        match lease {
            RenewedLease::For(lease) => text.push_str(number.format(lease.as_ms())),
            RenewedLease::LastAsked { default, max } => {
                for (before, lease) in [('?', default), (' ', max), (' ', self.short)] {
                    text.push(before);
                    text.push_str(number.format(lease.as_ms()));
                }
            }
        }
    }
}

fn read_heartbeaten(reply: &Reply) -> Result<HeartbeatOutcome, LocksError> {
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
