use std::time::Duration;

use lockable_client::{BootTime, Client, Error, Grant, LockRequest, Refusal};

use super::{
    args::{GrantArgs, LockOwnerArgs, duration},
    error::CliError,
    progress,
    server_command::{CommandOutput, Execute, ExecuteError},
    signals::Signals,
};
use crate::exit::Exit;

/// Acquire a lock, which the caller renews and releases.
#[derive(Debug, clap::Args)]
pub struct AcquireArgs {
    #[command(flatten)]
    lock: LockOwnerArgs,
    #[command(flatten)]
    grant: GrantArgs,
    /// How long to wait for the lock [default: 0]. With an owner, the server reserves the position in the queue for the next request
    #[arg(short, long, env = "LOCKABLE_WAIT", value_parser = duration, value_name = "DURATION")]
    wait: Option<Duration>,
}

impl Execute for AcquireArgs {
    async fn execute(&self, client: &Client) -> Result<CommandOutput, ExecuteError> {
        let request = self.grant.apply(self.lock.request()?);
        Ok(match acquire(client, &request, self.wait).await? {
            Ok(grant) => granted("acquired", &request, grant),
            Err(refusal) => refused(&request, *refusal),
        })
    }
}

/// Acquires a lock. A signal that ends the wait cancels it and then ends this process.
pub(super) async fn acquire(
    client: &Client,
    request: &LockRequest,
    wait: Option<Duration>,
) -> Result<Result<Grant, Box<Refusal>>, ExecuteError> {
    let mut signals =
        Signals::listen().map_err(|error| CliError::Unavailable(format!("cannot catch signals: {error}")))?;
    let until = BootTime::now() + wait.unwrap_or_default();
    let acquired = tokio::select! {
        acquired = progress::acquire(client, request, Some(until), false) => acquired,
        number = signals.ending() => {
            tokio::select! {
                () = client.cancel_wait(request) => {}
                _ = signals.urgent() => {}
            }
            return Err(CliError::Exit(Exit::Signal(number)).into());
        }
    };
    match acquired {
        Ok(grant) => Ok(Ok(grant)),
        Err(progress::AcquireError::Client(Error::NotAcquired(refusal))) => Ok(Err(refusal)),
        Err(progress::AcquireError::Client(error)) => Err(error.into()),
        Err(progress::AcquireError::OwnLock) => Err(progress::own_lock(request.name()).into()),
    }
}

/// The output for a grant. A new grant is released if the output cannot be printed.
pub(super) fn granted(verb: &str, request: &LockRequest, grant: Grant) -> CommandOutput {
    let new_grant = (!grant.again).then(|| (request.clone(), grant.fencing_token));
    CommandOutput { new_grant, ..CommandOutput::granted(verb, request, grant) }
}

pub(super) fn refused(request: &LockRequest, refusal: Refusal) -> CommandOutput {
    CommandOutput::new(false, format!("{} {refusal}", request.name()), refusal.answer)
}
