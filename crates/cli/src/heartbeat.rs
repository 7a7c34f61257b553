use std::time::Duration;

use lockable_client::Client;

use super::{
    args::{LockOwnerArgs, duration},
    server_command::{CommandOutput, Execute, ExecuteError},
};

const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(12);

/// Renew the lease of a lock.
#[derive(Debug, clap::Args)]
pub struct HeartbeatArgs {
    #[command(flatten)]
    lock: LockOwnerArgs,
    /// The lease from now on [default: the lease that the lock was acquired with]
    #[arg(long, env = "LOCKABLE_LEASE", value_parser = duration, value_name = "DURATION")]
    lease: Option<Duration>,
    /// Renew only the grant with this fencing token
    #[arg(long, value_name = "N")]
    fencing_token: Option<u64>,
}

impl Execute for HeartbeatArgs {
    async fn execute(&self, client: &Client) -> Result<CommandOutput, ExecuteError> {
        let mut request = self.lock.request()?;
        if let Some(lease) = self.lease {
            request = request.lease(lease);
        }
        Ok(match client.heartbeat(&request, self.fencing_token, HEARTBEAT_TIMEOUT).await? {
            Ok(grant) => CommandOutput::granted("renewed", &request, grant),
            Err(reason) => CommandOutput::not_held(&request, reason),
        })
    }
}
