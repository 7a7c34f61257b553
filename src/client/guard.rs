use std::{future, ops::ControlFlow, time::Duration};

use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    BootTime, Client, Error, Grant, LockRequest, Loss,
    renewer::{Hold, keep},
};
use crate::lock::Owner;

/// How long a release is tried.
pub const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
const RELEASE_PAUSE: Duration = Duration::from_millis(100);

/// A lock that is held: renewed in the background until it is released or dropped.
/// Dropping it releases it, without waiting for an answer.
#[derive(Debug)]
pub struct Lock {
    client: Client,
    request: LockRequest,
    hold: watch::Receiver<Hold>,
    keeper: JoinHandle<()>,
    is_given_back: bool,
}

impl Client {
    /// Acquires a lock and keeps it, waiting for it in line for so long.
    ///
    /// # Errors
    /// See [`Client::acquire_until`].
    pub async fn lock(&self, request: LockRequest, wait: Duration) -> Result<Lock, Error> {
        let grant = self.acquire_until(&request, Some(BootTime::now() + wait), |_| ControlFlow::Continue(())).await?;
        Ok(Lock::keep(self.clone(), request, grant))
    }
}

impl Lock {
    /// Keeps a grant that was made to this request.
    pub fn keep(client: Client, request: LockRequest, grant: Grant) -> Self {
        let (sender, hold) = watch::channel(Hold::new(grant));
        let keeper = tokio::spawn(keep(client.clone(), request.clone(), sender));
        Self { client, request, hold, keeper, is_given_back: false }
    }

    /// The number of this grant, which rises with every new one of the lock. Send
    /// it along to what the lock protects, which turns smaller ones away.
    pub fn fencing_token(&self) -> u64 {
        self.hold.borrow().grant.fencing_token
    }

    /// The client that it was acquired with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Who holds it within the account, if somebody was named.
    pub fn owner(&self) -> Option<&str> {
        self.request.owner.as_ref().map(Owner::as_str)
    }

    /// The grant as it was last confirmed.
    pub fn grant(&self) -> Grant {
        self.hold.borrow().grant.clone()
    }

    /// Until when it can be relied on, if no further heartbeat is confirmed.
    pub fn deadline(&self) -> BootTime {
        self.hold.borrow().deadline()
    }

    /// Why it is not held any more, if so.
    pub fn loss(&self) -> Option<Loss> {
        self.hold.borrow().loss
    }

    /// Is ready when it is not held any more, or may not be.
    pub async fn lost(&self) -> Loss {
        self.expiring(Duration::ZERO).await
    }

    /// Is ready when it was taken away, and so long before it cannot be relied on
    /// any more for want of heartbeats.
    pub async fn expiring(&self, before: Duration) -> Loss {
        let mut hold = self.hold.clone();
        loop {
            let (deadline, loss) = {
                let hold = hold.borrow_and_update();
                (hold.deadline() - before, hold.loss)
            };
            if let Some(loss) = loss {
                return loss;
            }
            tokio::select! {
                () = deadline.reached() => return Loss::Unconfirmed,
                // The sender is gone once it is lost, and has said so before.
                Ok(()) = hold.changed() => {}
            }
        }
    }

    /// What becomes of it from now on.
    pub fn changes(&self) -> Changes {
        Changes(self.hold.clone())
    }

    /// Gives it back. `false` when it was not held any more. A server that is away
    /// is asked again for up to [`RELEASE_PATIENCE`].
    ///
    /// # Errors
    /// When no server says whether it was.
    pub async fn release(mut self) -> Result<bool, Error> {
        self.is_given_back = true;
        self.keeper.abort();
        let give_up = BootTime::now() + RELEASE_PATIENCE;
        loop {
            let released = timeout(give_up.rest(), self.client.release(&self.request, Some(self.fencing_token())));
            match released.await {
                Ok(Ok(released)) => return Ok(released.is_ok()),
                Ok(Err(error)) if error.is_transient() && give_up.rest() > RELEASE_PAUSE => sleep(RELEASE_PAUSE).await,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(self.client.silent()),
            }
        }
    }

    /// Stops the heartbeats and leaves the lock to its lease: for a holder that has lost it, or
    /// whose work goes on where it cannot be stopped.
    pub fn abandon(mut self) {
        self.is_given_back = true;
    }
}

/// What becomes of a lock while it is held.
#[derive(Debug)]
pub struct Changes(watch::Receiver<Hold>);

impl Changes {
    /// Is ready when it was renewed or lost, or when heartbeats begin to fail: then
    /// with the reason. Never again once it was lost.
    pub async fn next(&mut self) -> Option<String> {
        if self.0.changed().await.is_err() {
            return future::pending().await;
        }
        self.0.borrow_and_update().trouble.clone()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.keeper.abort();
        if self.is_given_back {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (client, request, fence) = (self.client.clone(), self.request.clone(), self.fencing_token());
            runtime.spawn(async move {
                let _ = client.release(&request, Some(fence)).await;
            });
        }
    }
}
