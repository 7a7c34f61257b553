use std::{future::Future, mem, ops::ControlFlow, time::Duration};

use tokio::time::{sleep, timeout};

use super::{AcquireOutcome, BootTime, Client, Error, Grant, LockRequest, Refusal};

/// Limit for cancelling a wait.
pub const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// The wait of one request: less than servers and load balancers allow.
const REQUEST_WAIT: Duration = Duration::from_secs(50);
/// When the next request is sent: well before the current one ends.
const NEXT_REQUEST_AFTER: Duration = Duration::from_secs(40);
/// How long an answer may take after the caller's time limit.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The longest `Retry-After` that the client follows.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// An event of a wait.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The lock was refused; the request now waits in the queue.
    Queued(&'a Refusal),
    /// The request failed; the client retries it.
    RequestFailed(&'a Error),
}

impl Client {
    /// Acquires a lock. Waits until `until`, or indefinitely. After the first refusal the client
    /// waits in the queue, with one request after another; with an owner, the server reserves the
    /// position between two requests. The client retries while servers are unreachable or
    /// overloaded. A permanent error ends the wait. If no server has answered yet, a TLS error and
    /// the second failed DNS lookup are permanent, too.
    ///
    /// `progress` receives each event, and ends the wait by returning `Break`.
    ///
    /// # Errors
    /// [`Error::NotAcquired`] when the time is over or `progress` breaks; otherwise the server's
    /// error, or why no server was reachable in time.
    pub async fn acquire_until(
        &self,
        request: &LockRequest,
        until: Option<BootTime>,
        mut progress: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Grant, Error> {
        let remaining = || until.map_or(REQUEST_WAIT, |until| until.remaining().min(REQUEST_WAIT));
        let mut retries = RetryPolicy::default();
        let mut is_queued = false;
        loop {
            let sent = BootTime::now();
            let wait = if is_queued { remaining() } else { Duration::ZERO };
            let attempt = async {
                match wait == REQUEST_WAIT && request.owner.is_some() {
                    true => self.acquire_overlapping(request, remaining).await,
                    false => self.acquire(request, wait).await,
                }
            };
            match self.finish_before(until, attempt).await {
                Ok(AcquireOutcome::Granted(grant)) => return Ok(self.with_confirmed_lease(request, grant, sent).await),
                Ok(AcquireOutcome::Refused(refusal)) => {
                    retries.reset();
                    if remaining().is_zero() || progress(Progress::Queued(&refusal)).is_break() {
                        if is_queued {
                            self.cancel_wait(request).await;
                        }
                        return Err(Error::NotAcquired(Box::new(refusal)));
                    }
                    // A server that shuts down refuses at once. Pause, because load balancers take a
                    // moment to send requests to another server.
                    if is_queued && sent.elapsed() < PAUSE_MIN {
                        sleep(PAUSE_MIN.min(remaining())).await;
                    }
                    is_queued = true;
                }
                Err(error) => {
                    let pause = retries.pause_after(&error).filter(|_| !remaining().is_zero());
                    let Some(pause) = pause.filter(|_| progress(Progress::RequestFailed(&error)).is_continue()) else {
                        if is_queued {
                            self.cancel_wait(request).await;
                        }
                        return Err(error);
                    };
                    sleep(until.map_or(pause, |until| until.remaining().min(pause))).await;
                }
            }
        }
    }

    /// Ends an attempt soon after `until`. If `until` has passed already, the attempt is the only one
    /// and has the normal timeout.
    async fn finish_before<T>(
        &self,
        until: Option<BootTime>,
        attempt: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match until.map(BootTime::remaining).filter(|remaining| !remaining.is_zero()) {
            Some(remaining) => {
                timeout(remaining + ANSWER_MARGIN, attempt).await.unwrap_or_else(|_| Err(self.timed_out()))
            }
            None => attempt.await,
        }
    }

    /// Acquires a lock with overlapping requests: each is sent before the previous one ends, and takes
    /// over its position, because the server passes over a queue entry without an open request.
    /// Returns the first answer, except for the answer that a later request took over the position.
    async fn acquire_overlapping(
        &self,
        request: &LockRequest,
        remaining: impl Fn() -> Duration,
    ) -> Result<AcquireOutcome, Error> {
        let mut current = Box::pin(self.acquire(request, remaining()));
        loop {
            if let Ok(answer) = timeout(NEXT_REQUEST_AFTER, &mut current).await {
                return answer;
            }
            let mut next = Box::pin(self.acquire(request, remaining()));
            let answer = tokio::select! {
                biased;
                answer = &mut current => answer,
                // The current request has lost its position to the next one.
                answer = &mut next => return answer,
            };
            match answer {
                Ok(AcquireOutcome::Refused(refusal)) if refusal.reason == "replaced" => current = next,
                // From a server of an older version, or the next request arrived too late.
                Ok(AcquireOutcome::Refused(refusal)) if refusal.reason == "timed_out" => current = next,
                answer => return answer,
            }
        }
    }

    /// The lease of a grant after a wait began at the hand-over, whose time only the server knows. A
    /// heartbeat renews the lease, and its time is known.
    async fn with_confirmed_lease(&self, request: &LockRequest, grant: Grant, sent: BootTime) -> Grant {
        if sent.elapsed() < grant.lease / 10 {
            return grant;
        }
        let timeout = grant.lease / 3;
        match self.heartbeat(request, Some(grant.fencing_token), timeout).await {
            Ok(Ok(renewed)) => Grant { again: grant.again, ..renewed },
            // The renewer's next heartbeat reports the reason.
            _ => grant,
        }
    }

    /// Cancels a wait whose future was dropped: releases the owner's reservation in the queue, and the
    /// lock if the server granted it meanwhile. Takes at most [`CANCEL_TIMEOUT`].
    pub async fn cancel_wait(&self, request: &LockRequest) {
        if request.owner.is_some() {
            let _ = timeout(CANCEL_TIMEOUT, self.release(request, None)).await;
        }
    }
}

/// Decides which errors a wait retries, and the pause before each retry.
#[derive(Debug)]
struct RetryPolicy {
    pause: Duration,
    has_answered: bool,
    has_retried_lookup: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { pause: PAUSE_MIN, has_answered: false, has_retried_lookup: false }
    }
}

impl RetryPolicy {
    /// Must be called after an answer of the server.
    fn reset(&mut self) {
        (self.pause, self.has_answered) = (PAUSE_MIN, true);
    }

    /// The pause before the retry, or `None` for a permanent error. Once a server has answered, DNS
    /// and TLS errors come from the network, so they are not permanent.
    fn pause_after(&mut self, error: &Error) -> Option<Duration> {
        let is_retryable = match error {
            Error::UnknownHost { .. } => self.has_answered || !mem::replace(&mut self.has_retried_lookup, true),
            Error::Insecure { .. } | Error::UnexpectedAnswer { .. } => self.has_answered,
            error => error.is_transient(),
        };
        let jittered = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        is_retryable.then(|| error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX) + jittered)
    }
}
