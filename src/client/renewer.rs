use std::{fmt, time::Duration};

use tokio::sync::watch;

use super::{BootTime, Client, Error, Grant, LockRequest};

/// How much of a lease is not relied on: clocks do not run alike.
const DRIFT: f64 = 0.01;
/// How long one heartbeat may take; less for short leases.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why a lock is not held any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The server says so: it was broken, or lapsed.
    Taken,
    /// No heartbeat was confirmed in time.
    Unconfirmed,
}

/// How a lock stands for its holder.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub grant: Grant,
    pub loss: Option<Loss>,
    /// Why heartbeats have failed since the last that was confirmed.
    pub trouble: Option<String>,
}

impl Hold {
    pub fn new(grant: Grant) -> Self {
        Self { grant, loss: None, trouble: None }
    }

    /// Until when it can be relied on.
    pub fn deadline(&self) -> BootTime {
        self.grant.until - self.grant.lease.mul_f64(DRIFT)
    }
}

/// Sends heartbeats at a third of the lease, somewhat earlier so that many
/// holders do not send theirs at once, until the lock is lost.
pub(super) async fn keep(client: Client, request: LockRequest, hold: watch::Sender<Hold>) {
    let fence = hold.borrow().grant.fencing_token;
    let mut next = next_heartbeat(&hold.borrow().grant);
    let mut pause = PAUSE_MIN;
    loop {
        let deadline = hold.borrow().deadline();
        let heartbeat = async {
            next.reached().await;
            let timeout = HEARTBEAT_TIMEOUT.min(hold.borrow().grant.lease / 3);
            client.heartbeat(&request, Some(fence), timeout).await
        };
        let answer = tokio::select! {
            biased;
            () = deadline.reached() => return lose(&hold, Loss::Unconfirmed),
            answer = heartbeat => answer,
        };
        match answer {
            Ok(Ok(grant)) => {
                next = next_heartbeat(&grant);
                pause = PAUSE_MIN;
                hold.send_replace(Hold::new(grant));
            }
            Ok(Err(_)) => return lose(&hold, Loss::Taken),
            // Whatever it is, the lease runs on, and the next one may succeed.
            Err(error) => {
                next = BootTime::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0);
                pause = (pause * 2).min(PAUSE_MAX).min(hold.borrow().grant.lease / 10);
                note_trouble(&hold, &error);
            }
        }
    }
}

fn next_heartbeat(grant: &Grant) -> BootTime {
    let sent = grant.until - grant.lease;
    sent + (grant.lease / 3).mul_f64(0.9 + fastrand::f64() / 10.0)
}

fn lose(hold: &watch::Sender<Hold>, loss: Loss) {
    hold.send_modify(|hold| hold.loss = Some(loss));
}

fn note_trouble(hold: &watch::Sender<Hold>, error: &Error) {
    hold.send_if_modified(|hold| {
        let is_news = hold.trouble.is_none();
        hold.trouble.get_or_insert_with(|| error.to_string());
        is_news
    });
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taken => "the lock was lost: it was broken, or its lease has lapsed",
            Self::Unconfirmed => "the lock may be lost: no heartbeat was confirmed in time",
        })
    }
}
