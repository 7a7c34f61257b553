use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Acquired, Client, Error, Grant, LockRequest, Moment, Refusal};

/// How long a wait goes on while no server answers.
pub const UNREACHABLE_MAX: Duration = Duration::from_secs(60);

/// How long a server may take to hear that a client gives up.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long one request waits: less than servers and balancers allow.
const REQUEST_WAIT: Duration = Duration::from_secs(50);
/// When the next request is sent: well before the one before ends.
const NEXT_AFTER: Duration = Duration::from_secs(40);
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What happens during a wait.
#[derive(Debug)]
pub enum Progress<'a> {
    /// It is held, and we stand in line from now on.
    InLine(&'a Refusal),
    /// Nobody answers. Said once, until somebody does.
    Trouble(&'a Error),
}

impl Client {
    /// Acquires a lock, waiting for it until `until`, or for ever: in line from the
    /// first refusal on, through as many requests as it takes. With an owner the
    /// place is kept between two of them.
    ///
    /// # Errors
    /// [`Error::NotAcquired`] when the time is over; else what the server objects
    /// to, or why none has been reached for [`UNREACHABLE_MAX`].
    pub async fn acquire_until(
        &self,
        request: &LockRequest,
        until: Option<Moment>,
        mut progress: impl FnMut(Progress<'_>),
    ) -> Result<Grant, Error> {
        let rest = || until.map_or(REQUEST_WAIT, |until| until.rest().min(REQUEST_WAIT));
        let mut wait = Duration::ZERO;
        let mut pause = PAUSE_MIN;
        let mut troubled_since = None;
        loop {
            let asked = Moment::now();
            let asking = match wait == REQUEST_WAIT && request.owner.is_some() {
                true => self.acquire_in_turns(request, rest).await,
                false => self.acquire(request, wait).await,
            };
            let refusal = match asking {
                Ok(Acquired::Granted(grant)) => return Ok(self.confirmed(request, grant, asked).await),
                Ok(Acquired::Refused(refused)) => {
                    if wait.is_zero() && !rest().is_zero() {
                        progress(Progress::InLine(&refused));
                    }
                    (troubled_since, pause) = (None, PAUSE_MIN);
                    refused
                }
                Err(error) if error.is_transient() => {
                    if troubled_since.is_none() {
                        progress(Progress::Trouble(&error));
                    }
                    let since = *troubled_since.get_or_insert_with(Moment::now);
                    if since.elapsed() >= UNREACHABLE_MAX || rest().is_zero() {
                        return Err(error);
                    }
                    let pause_now = error.retry_after().unwrap_or_default().max(pause).min(PAUSE_MAX).min(rest());
                    sleep(pause_now.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // A server that is leaving refuses at once, and the next one may take a
            // moment to be found.
            if !wait.is_zero() && asked.elapsed() < PAUSE_MIN {
                sleep(PAUSE_MIN.min(rest())).await;
            }
            let has_place = !wait.is_zero();
            wait = rest();
            if wait.is_zero() {
                if has_place {
                    self.leave(request).await;
                }
                return Err(Error::NotAcquired(Box::new(refusal)));
            }
        }
    }

    /// Acquires a lock, waiting for it in requests of which each is sent before the one
    /// before ends, and takes over its position: while none is open, others are served
    /// first. Returns when one is answered other than that a later one has its position.
    async fn acquire_in_turns(&self, request: &LockRequest, rest: impl Fn() -> Duration) -> Result<Acquired, Error> {
        let mut current = Box::pin(self.acquire(request, rest()));
        loop {
            if let Ok(answer) = timeout(NEXT_AFTER, &mut current).await {
                return answer;
            }
            let mut next = Box::pin(self.acquire(request, rest()));
            let answer = tokio::select! {
                biased;
                answer = &mut current => answer,
                // The one before has no position any more.
                answer = &mut next => return answer,
            };
            match answer {
                Ok(Acquired::Refused(refusal)) if refusal.reason == "replaced" => current = next,
                // A server of before says so, or the next one was not there in time.
                Ok(Acquired::Refused(refusal)) if refusal.reason == "timed_out" => current = next,
                answer => return answer,
            }
        }
    }

    /// A grant that was waited for counts from when it was handed over, which only
    /// the server knows: a heartbeat that is sent now says it anew.
    async fn confirmed(&self, request: &LockRequest, grant: Grant, asked: Moment) -> Grant {
        if asked.elapsed() < grant.lease / 10 {
            return grant;
        }
        let timeout = grant.lease / 3;
        match self.heartbeat(request, Some(grant.fencing_token), timeout).await {
            Ok(Ok(renewed)) => renewed,
            // Whoever keeps it finds out why.
            _ => grant,
        }
    }

    /// Gives up the owner's place in the line, which would be kept for a while, and
    /// whatever was granted to it in the meantime: for who has dropped a wait. It is
    /// not waited for longer than [`FAREWELL_TIMEOUT`].
    pub async fn leave(&self, request: &LockRequest) {
        if request.owner.is_some() {
            let _ = timeout(FAREWELL_TIMEOUT, self.release(request, None)).await;
        }
    }
}
