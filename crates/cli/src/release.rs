use lockable_client::Client;

use super::{
    args::LockOwnerArgs,
    server_command::{CommandOutput, Execute, ExecuteError},
};

/// Release a lock, or leave its queue.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    lock: LockOwnerArgs,
    /// Release only the grant with this fencing token
    #[arg(long, value_name = "N")]
    fencing_token: Option<u64>,
}

impl Execute for ReleaseArgs {
    async fn execute(&self, client: &Client) -> Result<CommandOutput, ExecuteError> {
        let request = self.lock.request()?;
        Ok(CommandOutput::ended("released", &request, client.release(&request, self.fencing_token).await?))
    }
}
