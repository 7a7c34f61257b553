use std::time::Duration;

use super::{
    Locks, LocksError,
    journal::Change,
    request::{Answer, HeartbeatRequest, Keys, RenewedLease, read_standing, script, write_fence, write_rate},
    stored::read_time,
    words::{KeySlices, Words},
};
use crate::{
    keyspace::{Reply, Script},
    lock::{Grant, Heartbeaten, Lease, NotHeld, Payment},
};

static HEARTBEAT: Script = script!("heartbeat" = "grant" "heartbeat");

impl Locks {
    /// Renews the lease of a lock, if the claimant holds it.
    ///
    /// # Errors
    /// When the keyspace gave no answer in time; the lease may be renewed then.
    pub async fn heartbeat(&self, request: &HeartbeatRequest) -> Result<Answer<Heartbeaten>, LocksError> {
        let account = request.claimant.account.key_text();
        let place = request.lock.place();
        let shard = self.keyspace.shard_of(&place);
        let deadline = self.deadline(shard)?;
        let era = self.era_for(shard);
        let keys = Keys::few(&self.keyspace, &place, account.as_str());
        let mut keys = KeySlices::from_iter([keys.lock(), keys.held(), keys.clock()]);
        if let Payment::Due(due) = &request.payment {
            keys.push(&due.bucket);
        }
        let mut args = Words::new();
        args.write(|text| request.claimant.write_head(text))
            .text(&place)
            .write(|text| self.write_lease(text, request.lease))
            .write(|text| write_fence(text, request.fence))
            .number(deadline.us)
            .text(if matches!(request.lease, RenewedLease::For(lease) if self.is_long(lease)) { "1" } else { "" })
            .number(self.keyspace.epoch_us(shard));
        write_rate(&mut args, &request.payment);
        let reply = loop {
            let reply = deadline.settled(self.keyspace.run_replicated(&HEARTBEAT, &keys, &args.slices()).await).await?;
            if !deadline.is_to_repeat(&reply, &request.payment).await {
                break reply;
            }
        };
        Self::count("heartbeat", &reply);
        let mut outcome = read_heartbeaten(&reply)?;
        if let Heartbeaten::Renewed(grant) = &mut outcome
            && let Some(change) = Change::read(&reply, 5)?
        {
            let of = (&request.lock, &request.claimant);
            if !Box::pin(self.record_renewal(era.as_ref(), of, grant, change)).await {
                outcome = Heartbeaten::Refused(NotHeld::Free);
            }
        }
        if matches!(outcome, Heartbeaten::Refused(_)) {
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

fn read_heartbeaten(reply: &Reply) -> Result<Heartbeaten, LocksError> {
    Ok(match reply.status() {
        "renewed" => Heartbeaten::Renewed(Grant {
            fence: reply.word(2)?,
            lease: Lease::from_ms(reply.word(4)?),
            expires_at: read_time(reply, 3)?,
        }),
        "not_held" => Heartbeaten::Refused(NotHeld::Free),
        "held_by_another" => Heartbeaten::Refused(NotHeld::HeldByAnother),
        "rate_limited" => Heartbeaten::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
        "unsettled" => return Err(LocksError::Unsettled),
        "late" => return Err(LocksError::TooLate),
        _ => return Err(reply.bad().into()),
    })
}
