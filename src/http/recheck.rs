use std::{
    future::pending,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::http::StatusCode;
use tokio::time::sleep;

use super::{
    caller::{Authorized, Lock, lease_out_of_range},
    problem::{Kind, Problem},
};
use crate::{accounts::Subscription, app::App, locks::AcquireRequest};

/// Re-checks the caller of a queued request whenever its account has changed: a token that
/// was revoked meanwhile, or whose account was suspended, is granted nothing.
pub(super) struct Recheck<'a> {
    app: &'a App,
    caller: &'a Authorized<Lock>,
    request: &'a AcquireRequest,
    subscription: Subscription,
    /// With how many changes of the account the caller was checked last.
    checked: AtomicU64,
}

impl<'a> Recheck<'a> {
    /// How long to wait before the next check when accounts could not be asked.
    const RETRY_PAUSE: Duration = Duration::from_millis(500);

    /// Subscribes to the changes of the caller's account.
    ///
    /// # Errors
    /// When the account has changed since the caller was checked first, so that it may not
    /// have the lock any more.
    pub(super) async fn begin(
        app: &'a App,
        caller: &'a Authorized<Lock>,
        request: &'a AcquireRequest,
    ) -> Result<Self, Problem> {
        let subscription = app.directory.subscribe(caller.account().account);
        let checked = AtomicU64::new(subscription.changes());
        let recheck = Self { app, caller, request, subscription, checked };
        // After the subscription, which does not have what changed before it.
        if caller.is_outdated(app) {
            Box::pin(recheck.check()).await?;
        }
        Ok(recheck)
    }

    /// Waits until the caller may not have the lock any more. Returns the problem to answer.
    pub(super) async fn refusal(&self) -> Problem {
        loop {
            tokio::select! {
                () = self.subscription.changed(self.checked()) => {}
                () = self.expiry() => {}
            }
            // Boxed: its room would be taken for as long as nothing changes.
            match Box::pin(self.check()).await {
                Ok(()) => {}
                Err(problem) if problem.status() == StatusCode::SERVICE_UNAVAILABLE => sleep(Self::RETRY_PAUSE).await,
                Err(problem) => return problem,
            }
        }
    }

    /// Checks once more before a grant is answered. Asks nobody unless the account has
    /// changed.
    ///
    /// # Errors
    /// When the caller may not have the lock any more, or accounts could not be asked.
    pub(super) async fn confirm(&self) -> Result<(), Problem> {
        if self.checked() == self.subscription.changes() && !self.caller.account().has_ended() {
            return Ok(());
        }
        Box::pin(self.check()).await
    }

    async fn check(&self) -> Result<(), Problem> {
        let changes = self.subscription.changes();
        let caller = self.caller.check_again(self.app).await?;
        if !caller.has_namespace(self.request.lock.namespace) {
            return Err(Problem::new(Kind::NamespaceDenied, "the account has this namespace no more"));
        }
        caller.lease(Some(self.request.lease)).map_err(lease_out_of_range)?;
        self.checked.store(changes, Ordering::Relaxed);
        Ok(())
    }

    fn checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }

    /// Waits until the token ends by itself.
    async fn expiry(&self) {
        match self.caller.account().rest() {
            // Boxed: few tokens end by themselves.
            Some(rest) => Box::pin(sleep(rest)).await,
            None => pending().await,
        }
    }
}
