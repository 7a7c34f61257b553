use lockable_client::{Client, Status, clock, recovering};
use serde_json::json;

use super::{
    args::LockNameArgs,
    server_command::{CommandOutput, Execute, ExecuteError},
};

/// Show a lock's holder and the length of its queue.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    lock: LockNameArgs,
}

impl Execute for StatusArgs {
    async fn execute(&self, client: &Client) -> Result<CommandOutput, ExecuteError> {
        let status = client.status(&self.lock.request()?).await?;
        Ok(CommandOutput::new(status.held, describe(&status), json!(status)))
    }
}

fn describe(status: &Status) -> String {
    let name = &status.name;
    let held = match (&status.holder, status.held) {
        (Some(holder), _) => format!("{name} is held by {holder}, until {}", clock(&holder.expires_at)),
        (None, true) => format!("{name} is held by another account"),
        (None, false) => match &status.recovering_until {
            Some(until) => format!("{name} {}", recovering(until)),
            None => format!("{name} is free"),
        },
    };
    match status.waiting {
        0 => held,
        waiting => format!("{held}; {waiting} waiting"),
    }
}
