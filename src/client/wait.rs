use std::{future::Future, mem, ops::ControlFlow, time::Duration};

use tokio::time::{sleep, timeout};

use super::{AcquireOutcome, BootTime, Client, Error, Grant, LockRequest, Refusal};

/// How long a server may take to hear that a client gives up.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long one request waits: less than servers and balancers allow.
const REQUEST_WAIT: Duration = Duration::from_secs(50);
/// When the next request is sent: well before the one before ends.
const NEXT_AFTER: Duration = Duration::from_secs(40);
/// How long an answer may take beyond the time that a caller wants to wait.
const OVERTIME: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a server can have a request put off.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// What happens during a wait.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The lock was refused; from now on the request waits in the queue.
    InLine(&'a Refusal),
    /// The request failed, and is sent again.
    Trouble(&'a Error),
}

impl Client {
    /// Acquires a lock, waiting for it until `until`, or for ever: in the queue from the first
    /// refusal on, through as many requests as it takes. With an owner the position is kept
    /// between two of them. Servers that are away or busy are asked again all the while. An
    /// error that asking again cannot mend ends the wait: so does an unknown host after a
    /// second look, and a failure of TLS, unless a server has answered before.
    ///
    /// `progress` is told what happens, and ends the wait by breaking.
    ///
    /// # Errors
    /// [`Error::NotAcquired`] when the time is over or `progress` breaks; else what the server
    /// objects to, or why none has been reached in time.
    pub async fn acquire_until(
        &self,
        request: &LockRequest,
        until: Option<BootTime>,
        mut progress: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Grant, Error> {
        let rest = || until.map_or(REQUEST_WAIT, |until| until.rest().min(REQUEST_WAIT));
        let mut patience = Patience::default();
        let mut is_in_line = false;
        loop {
            let asked = BootTime::now();
            let wait = if is_in_line { rest() } else { Duration::ZERO };
            let asking = async {
                match wait == REQUEST_WAIT && request.owner.is_some() {
                    true => self.acquire_in_turns(request, rest).await,
                    false => self.acquire(request, wait).await,
                }
            };
            match self.before(until, asking).await {
                Ok(AcquireOutcome::Granted(grant)) => return Ok(self.confirmed(request, grant, asked).await),
                Ok(AcquireOutcome::Refused(refusal)) => {
                    patience.renew();
                    if rest().is_zero() || progress(Progress::InLine(&refusal)).is_break() {
                        if is_in_line {
                            self.leave(request).await;
                        }
                        return Err(Error::NotAcquired(Box::new(refusal)));
                    }
                    // A server that is leaving refuses at once, and the next one may take a
                    // moment to be found.
                    if is_in_line && asked.elapsed() < PAUSE_MIN {
                        sleep(PAUSE_MIN.min(rest())).await;
                    }
                    is_in_line = true;
                }
                Err(error) => {
                    let pause = patience.pause_after(&error).filter(|_| !rest().is_zero());
                    let Some(pause) = pause.filter(|_| progress(Progress::Trouble(&error)).is_continue()) else {
                        if is_in_line {
                            self.leave(request).await;
                        }
                        return Err(error);
                    };
                    sleep(until.map_or(pause, |until| until.rest().min(pause))).await;
                }
            }
        }
    }

    /// Ends an attempt soon after `until`, unless that had passed before it began: a lone
    /// attempt has the time that any request has.
    async fn before<T>(
        &self,
        until: Option<BootTime>,
        asking: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match until.map(BootTime::rest).filter(|rest| !rest.is_zero()) {
            Some(rest) => timeout(rest + OVERTIME, asking).await.unwrap_or_else(|_| Err(self.silent())),
            None => asking.await,
        }
    }

    /// Acquires a lock, waiting for it in requests of which each is sent before the one
    /// before ends, and takes over its position: while none is open, others are served
    /// first. Returns when one is answered other than that a later one has its position.
    async fn acquire_in_turns(
        &self,
        request: &LockRequest,
        rest: impl Fn() -> Duration,
    ) -> Result<AcquireOutcome, Error> {
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
                Ok(AcquireOutcome::Refused(refusal)) if refusal.reason == "replaced" => current = next,
                // A server of before says so, or the next one was not there in time.
                Ok(AcquireOutcome::Refused(refusal)) if refusal.reason == "timed_out" => current = next,
                answer => return answer,
            }
        }
    }

    /// A grant that was waited for counts from when it was handed over, which only
    /// the server knows: a heartbeat that is sent now says it anew.
    async fn confirmed(&self, request: &LockRequest, grant: Grant, asked: BootTime) -> Grant {
        if asked.elapsed() < grant.lease / 10 {
            return grant;
        }
        let timeout = grant.lease / 3;
        match self.heartbeat(request, Some(grant.fencing_token), timeout).await {
            Ok(Ok(renewed)) => Grant { again: grant.again, ..renewed },
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

/// Decides which failures a wait outlasts, and how long it pauses after each.
#[derive(Debug)]
struct Patience {
    pause: Duration,
    has_answered: bool,
    has_looked_up_twice: bool,
}

impl Default for Patience {
    fn default() -> Self {
        Self { pause: PAUSE_MIN, has_answered: false, has_looked_up_twice: false }
    }
}

impl Patience {
    /// A server has answered.
    fn renew(&mut self) {
        (self.pause, self.has_answered) = (PAUSE_MIN, true);
    }

    /// How long to pause before the next request, if there is to be one. A server that has
    /// answered was found, and trusted: when it is not any more, the network is at fault.
    fn pause_after(&mut self, error: &Error) -> Option<Duration> {
        let may_pass = match error {
            Error::UnknownHost { .. } => self.has_answered || !mem::replace(&mut self.has_looked_up_twice, true),
            Error::Insecure { .. } | Error::Stranger { .. } => self.has_answered,
            error => error.is_transient(),
        };
        let jittered = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        may_pass.then(|| error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX) + jittered)
    }
}
