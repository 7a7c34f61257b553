use std::{future, ops::ControlFlow, time::Duration};

use lockable_protocol::Owner;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    BootTime, Client, Error, Grant, LockRequest, Loss,
    renewer::{RenewalState, renew},
};

/// How long a release is retried.
pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
const RELEASE_PAUSE: Duration = Duration::from_millis(100);

/// A held lock. A background task renews its lease until the guard is released or dropped. Dropping
/// the guard releases the lock without waiting for the answer.
#[derive(Debug)]
pub struct LockGuard {
    client: Client,
    request: LockRequest,
    state: watch::Receiver<RenewalState>,
    renewer: JoinHandle<()>,
    skips_release: bool,
}

impl Client {
    /// Acquires a lock and renews its lease. Waits in the queue for at most `wait`.
    ///
    /// # Errors
    /// See [`Client::acquire_until`].
    pub async fn lock(&self, request: LockRequest, wait: Duration) -> Result<LockGuard, Error> {
        let grant = self.acquire_until(&request, Some(BootTime::now() + wait), |_| ControlFlow::Continue(())).await?;
        Ok(LockGuard::new(self.clone(), request, grant))
    }
}

impl LockGuard {
    /// Renews the lease of a grant of this request.
    pub fn new(client: Client, request: LockRequest, grant: Grant) -> Self {
        let (sender, state) = watch::channel(RenewalState::new(grant));
        let renewer = tokio::spawn(renew(client.clone(), request.clone(), sender));
        Self { client, request, state, renewer, skips_release: false }
    }

    /// The fencing token, which rises with every grant of the lock. Send it to the protected resource,
    /// which must reject smaller ones.
    pub fn fencing_token(&self) -> u64 {
        self.state.borrow().grant.fencing_token
    }

    /// The client of this lock.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The owner, if the request has one.
    pub fn owner(&self) -> Option<&str> {
        self.request.owner.as_ref().map(Owner::as_str)
    }

    /// The grant as of the last confirmed heartbeat.
    pub fn grant(&self) -> Grant {
        self.state.borrow().grant.clone()
    }

    /// Until when the lock is held if no further heartbeat is confirmed.
    pub fn deadline(&self) -> BootTime {
        self.state.borrow().deadline()
    }

    /// Why the lock was lost, if it was.
    pub fn loss(&self) -> Option<Loss> {
        self.state.borrow().loss
    }

    /// Waits until the lock is, or may be, lost.
    pub async fn lost(&self) -> Loss {
        self.expiring(Duration::ZERO).await
    }

    /// Waits until the lock is lost. Returns earlier, by the duration `before`, if the lock would be
    /// lost because no heartbeat was confirmed.
    pub async fn expiring(&self, before: Duration) -> Loss {
        let mut state = self.state.clone();
        loop {
            let (deadline, loss) = {
                let state = state.borrow_and_update();
                (state.deadline() - before, state.loss)
            };
            if let Some(loss) = loss {
                return loss;
            }
            tokio::select! {
                () = deadline.reached() => return Loss::Unconfirmed,
                // The sender is dropped only after it has published the loss.
                Ok(()) = state.changed() => {}
            }
        }
    }

    /// The events of this lock from now on.
    pub fn events(&self) -> LockEvents {
        LockEvents(self.state.clone())
    }

    /// Releases the lock. Returns `false` if it was no longer held. Retries an unreachable server for
    /// up to [`RELEASE_TIMEOUT`].
    ///
    /// # Errors
    /// When the server returns no result.
    pub async fn release(mut self) -> Result<bool, Error> {
        self.skips_release = true;
        self.renewer.abort();
        let deadline = BootTime::now() + RELEASE_TIMEOUT;
        loop {
            let released =
                timeout(deadline.remaining(), self.client.release(&self.request, Some(self.fencing_token())));
            match released.await {
                Ok(Ok(released)) => return Ok(released.is_ok()),
                Ok(Err(error)) if error.is_transient() && deadline.remaining() > RELEASE_PAUSE => {
                    sleep(RELEASE_PAUSE).await;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(self.client.timed_out()),
            }
        }
    }

    /// Stops the heartbeats without a release, so that the lock is held until its lease expires. For a
    /// holder that has lost the lock, or whose work continues and cannot be stopped.
    pub fn abandon(mut self) {
        self.skips_release = true;
    }
}

/// The events of a held lock.
#[derive(Debug)]
pub struct LockEvents(watch::Receiver<RenewalState>);

impl LockEvents {
    /// Waits until the lock is renewed or lost, or until heartbeats begin to fail; returns the error in
    /// the last case. After a loss it waits forever.
    pub async fn next(&mut self) -> Option<String> {
        if self.0.changed().await.is_err() {
            return future::pending().await;
        }
        self.0.borrow_and_update().heartbeat_error.clone()
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.renewer.abort();
        if self.skips_release {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (client, request, fencing_token) = (self.client.clone(), self.request.clone(), self.fencing_token());
            runtime.spawn(async move {
                let _ = client.release(&request, Some(fencing_token)).await;
            });
        }
    }
}
