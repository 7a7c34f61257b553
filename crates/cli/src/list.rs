use lockable_client::{Client, clock};
use serde_json::json;

use super::{
    args::namespace,
    server_command::{CommandOutput, Execute, ExecuteError},
};

/// List the locks that the account holds.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// List only locks whose names begin with this prefix
    #[arg(default_value = "")]
    prefix: String,
    /// The namespace of the locks [default: the token's]
    #[arg(long, env = "LOCKABLE_NAMESPACE", value_parser = namespace)]
    namespace: Option<String>,
}

impl Execute for ListArgs {
    async fn execute(&self, client: &Client) -> Result<CommandOutput, ExecuteError> {
        let (mut locks, mut cursor) = (Vec::new(), None);
        loop {
            let page = client.list(self.namespace.as_deref(), &self.prefix, cursor.as_deref()).await?;
            locks.extend(page.locks);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let lines = locks
            .iter()
            .map(|lock| format!("{}\t{}\tuntil {}", lock.name, lock.holder, clock(&lock.holder.expires_at)));
        Ok(CommandOutput::new(true, lines.collect::<Vec<_>>().join("\n"), json!(locks)))
    }
}
