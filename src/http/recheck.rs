use std::{
    future::pending,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::http::StatusCode;
use tokio::time::sleep;

use super::{
    caller::{Authorized, CanLock, lease_out_of_range},
    problem::{Problem, ProblemKind},
};
use crate::{accounts::Subscription, app::App, locks::AcquireRequest};

/// Checks the caller of a queued request again after every change of its account, so that a request with
/// a revoked token, or of a suspended account, gets no grant.
pub(super) struct Recheck<'a> {
    app: &'a App,
    caller: &'a Authorized<CanLock>,
    request: &'a AcquireRequest,
    subscription: Subscription,
    /// The number of changes of the account at the last check.
    checked: AtomicU64,
}

impl<'a> Recheck<'a> {
    /// The pause before the next check while the account database is unavailable.
    const RETRY_PAUSE: Duration = Duration::from_millis(500);

    /// Subscribes to the changes of the caller's account.
    ///
    /// # Errors
    /// When the account has changed since the first check, and the caller has lost the right to the lock.
    pub(super) async fn begin(
        app: &'a App,
        caller: &'a Authorized<CanLock>,
        request: &'a AcquireRequest,
    ) -> Result<Self, Problem> {
        let subscription = app.token_cache.subscribe(caller.account().account);
        let checked = AtomicU64::new(subscription.changes());
        let recheck = Self { app, caller, request, subscription, checked };
        // The subscription misses earlier changes, so check for them after subscribing.
        if caller.is_outdated(app) {
            Box::pin(recheck.check()).await?;
        }
        Ok(recheck)
    }

    /// Waits until the caller loses the right to the lock, and returns the problem.
    pub(super) async fn refusal(&self) -> Problem {
        loop {
            tokio::select! {
                () = self.subscription.changed(self.checked()) => {}
                () = self.expiry() => {}
            }
            // Boxed: its future would enlarge the future of every queued request.
            match Box::pin(self.check()).await {
                Ok(()) => {}
                Err(problem) if problem.status() == StatusCode::SERVICE_UNAVAILABLE => sleep(Self::RETRY_PAUSE).await,
                Err(problem) => return problem,
            }
        }
    }

    /// Checks the caller before its grant is returned. Without changes of the account this needs no query.
    ///
    /// # Errors
    /// When the caller has lost the right to the lock, or the account database is unavailable.
    pub(super) async fn confirm(&self) -> Result<(), Problem> {
        if self.checked() == self.subscription.changes() && !self.caller.account().is_expired() {
            return Ok(());
        }
        Box::pin(self.check()).await
    }

    async fn check(&self) -> Result<(), Problem> {
        let changes = self.subscription.changes();
        let caller = self.caller.check_again(self.app).await?;
        if !caller.has_namespace(self.request.lock.namespace) {
            return Err(Problem::new(ProblemKind::NamespaceDenied, "the account no longer has this namespace"));
        }
        caller.lease(Some(self.request.lease)).map_err(lease_out_of_range)?;
        self.checked.store(changes, Ordering::Relaxed);
        Ok(())
    }

    fn checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }

    /// Waits until the token expires.
    async fn expiry(&self) {
        match self.caller.account().remaining() {
            // Boxed: few tokens expire, and its future would enlarge the future of every queued request.
            Some(remaining) => Box::pin(sleep(remaining)).await,
            None => pending().await,
        }
    }
}
