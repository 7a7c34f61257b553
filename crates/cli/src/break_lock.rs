use lockable_client::Client;

use super::{
    args::LockNameArgs,
    server_command::{CommandOutput, Execute, ExecuteError},
};

/// End another holder's grant by force; the audit log records it.
#[derive(Debug, clap::Args)]
pub struct BreakArgs {
    #[command(flatten)]
    lock: LockNameArgs,
}

impl Execute for BreakArgs {
    async fn execute(&self, client: &Client) -> Result<CommandOutput, ExecuteError> {
        let request = self.lock.request()?;
        Ok(CommandOutput::ended("broken", &request, client.break_lock(&request).await?))
    }
}
