use std::{fmt, time::Duration};

use tokio::sync::watch;

use super::{BootTime, Client, Error, Grant, LockRequest};

/// The fraction of a lease that the client does not use, because clocks differ in speed.
const DRIFT: f64 = 0.01;
/// Limit for one heartbeat; less for short leases.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why a lock was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The server reported that it is not held: it was broken, or its lease expired.
    NotHeld,
    /// No heartbeat was confirmed in time.
    Unconfirmed,
}

/// The state of a held lock.
#[derive(Clone, Debug)]
pub(super) struct RenewalState {
    pub grant: Grant,
    pub loss: Option<Loss>,
    /// The first error since the last confirmed heartbeat.
    pub heartbeat_error: Option<String>,
}

impl RenewalState {
    pub fn new(grant: Grant) -> Self {
        Self { grant, loss: None, heartbeat_error: None }
    }

    /// Until when the lock is held if no further heartbeat is confirmed.
    pub fn deadline(&self) -> BootTime {
        self.grant.until - self.grant.lease.mul_f64(DRIFT)
    }
}

/// Sends heartbeats at a third of the lease until the lock is lost. Each is up to a tenth of that
/// interval earlier, so that many holders do not send theirs at once.
pub(super) async fn renew(client: Client, request: LockRequest, state: watch::Sender<RenewalState>) {
    let fencing_token = state.borrow().grant.fencing_token;
    let mut next = next_heartbeat(&state.borrow().grant);
    let mut pause = PAUSE_MIN;
    loop {
        let deadline = state.borrow().deadline();
        let heartbeat = async {
            next.reached().await;
            let timeout = HEARTBEAT_TIMEOUT.min(state.borrow().grant.lease / 3);
            client.heartbeat(&request, Some(fencing_token), timeout).await
        };
        let answer = tokio::select! {
            biased;
            () = deadline.reached() => return lose(&state, Loss::Unconfirmed),
            answer = heartbeat => answer,
        };
        match answer {
            Ok(Ok(grant)) => {
                next = next_heartbeat(&grant);
                pause = PAUSE_MIN;
                state.send_replace(RenewalState::new(grant));
            }
            Ok(Err(_)) => return lose(&state, Loss::NotHeld),
            // Retry after any error: the lease still runs, and the next heartbeat may succeed.
            Err(error) => {
                next = BootTime::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                pause = (pause * 2).min(PAUSE_MAX).min(state.borrow().grant.lease / 10);
                record_error(&state, &error);
            }
        }
    }
}

fn next_heartbeat(grant: &Grant) -> BootTime {
    let sent = grant.until - grant.lease;
    sent + (grant.lease / 3).mul_f64(0.9 + fastrand::f64() / 10.0)
}

fn lose(state: &watch::Sender<RenewalState>, loss: Loss) {
    state.send_modify(|state| state.loss = Some(loss));
}

fn record_error(state: &watch::Sender<RenewalState>, error: &Error) {
    state.send_if_modified(|state| {
        let is_first = state.heartbeat_error.is_none();
        state.heartbeat_error.get_or_insert_with(|| error.to_string());
        is_first
    });
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHeld => "the lock was lost: it was broken, or its lease expired",
            Self::Unconfirmed => "the lock may be lost: no heartbeat was confirmed in time",
        })
    }
}
