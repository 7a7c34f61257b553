use std::time::Duration;

use super::{
    Locks, LocksError,
    request::{Answer, HeartbeatRequest, Keys, rate_args, read_standing, script},
    stored::read_time,
};
use crate::{
    keyspace::{Reply, Script},
    lock::{Grant, Heartbeaten, Lease, NotHeld, Payment},
};

static HEARTBEAT: Script = script!("heartbeat");

impl Locks {
    /// Renews the lease of a lock, if the claimant holds it.
    ///
    /// # Errors
    /// When the keyspace gave no answer in time; the lease may be renewed then.
    pub async fn heartbeat(&self, request: &HeartbeatRequest) -> Result<Answer<Heartbeaten>, LocksError> {
        let deadline_us = self.deadline_us()?;
        let era = self.era_for(request.lease);
        let account = request.claimant.account.to_string();
        let place = request.lock.to_string();
        let keys = Keys::new(&self.keyspace, &place, &account, &request.payment);
        let [interval_us, burst_us] = rate_args(&request.payment);
        let args = [
            &*request.claimant.head(),
            &place,
            &request.lease.as_ms().to_string(),
            &request.fence.map(|fence| fence.to_string()).unwrap_or_default(),
            &deadline_us.to_string(),
            if self.is_long(request.lease) { "1" } else { "" },
            &self.keyspace.epoch_us().to_string(),
            &interval_us,
            &burst_us,
        ];
        let args = if request.payment == Payment::Paid { &args[..7] } else { &args[..] };
        let keys = keys.with_bucket(&[&keys.lock, &keys.held, &keys.clock]);
        let reply = self.keyspace.run_replicated(&HEARTBEAT, &keys, args).await?;
        Self::count("heartbeat", &reply);
        let mut outcome = read_heartbeaten(&reply, request.lease)?;
        if let Heartbeaten::Renewed(grant) = &mut outcome
            && self.is_long(grant.lease)
        {
            self.write_renewed(era.as_ref(), place, grant, reply.text(4)?).await;
        }
        if matches!(outcome, Heartbeaten::Refused(_)) {
            Self::count_lapse("holder");
        }
        Ok(Answer { outcome, standing: read_standing(&reply, &request.payment)? })
    }
}

fn read_heartbeaten(reply: &Reply, lease: Lease) -> Result<Heartbeaten, LocksError> {
    Ok(match reply.status() {
        "renewed" => Heartbeaten::Renewed(Grant { fence: reply.word(2)?, lease, expires_at: read_time(reply, 3)? }),
        "not_held" => Heartbeaten::Refused(NotHeld::Free),
        "held_by_another" => Heartbeaten::Refused(NotHeld::HeldByAnother),
        "rate_limited" => Heartbeaten::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
        "unsettled" => return Err(LocksError::Unsettled),
        "late" => return Err(LocksError::TooLate),
        _ => return Err(reply.bad().into()),
    })
}
