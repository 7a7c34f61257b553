//! What the commands for scripts share: each sends one request, prints one line or JSON, and
//! reports the result by its exit code.

use std::fmt;

use lockable_client::{Client, Error, Grant, LockRequest, NotHeld, clock};
use serde_json::{Value, json};

use super::{NO, YES, error::CliError, print_message, sanitized, server::ServerArgs};
use crate::exit::{self, Exit};

/// A command with its output format and server.
#[derive(Debug, clap::Args)]
pub struct ServerCommand<T: clap::Args> {
    #[command(flatten)]
    command: T,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// The result of a command, as text and as JSON.
pub struct CommandOutput {
    pub is_yes: bool,
    pub text: String,
    pub json: Value,
    /// The lock and the fencing token to release if the result cannot be printed.
    pub new_grant: Option<(LockRequest, u64)>,
}

/// Why a command has no result.
pub enum ExecuteError {
    Client(Error),
    Cli(CliError),
}

impl From<Error> for ExecuteError {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<CliError> for ExecuteError {
    fn from(error: CliError) -> Self {
        Self::Cli(error)
    }
}

/// Sends a command's request.
#[expect(async_fn_in_trait, reason = "only the commands of this folder implement it")]
pub trait Execute {
    async fn execute(&self, client: &Client) -> Result<CommandOutput, ExecuteError>;
}

impl<T: clap::Args + Execute> ServerCommand<T> {
    /// Executes the command and prints the result. If a new grant cannot be printed, the lock is
    /// released: the caller does not know that it holds the lock.
    ///
    /// # Errors
    /// When the server returns no result, or the result cannot be printed.
    pub(super) async fn run(&self) -> Result<Exit, CliError> {
        let server = self.server.server()?;
        let client = server.client()?;
        let output = self.command.execute(&client).await.map_err(|error| match error {
            ExecuteError::Client(error) => server.cli_error(&error),
            ExecuteError::Cli(error) => error,
        })?;
        let text = match self.json {
            true => format!("{}\n", output.json),
            false if output.text.is_empty() => String::new(),
            false => format!("{}\n", sanitized(&output.text)),
        };
        if let Err(exit) = exit::print(&text) {
            if let Some((request, fencing_token)) = &output.new_grant {
                let released = client.release(request, Some(*fencing_token)).await;
                if released.is_err() {
                    print_message(&format!("cannot release {}; it stays held until its lease expires", request.name()));
                }
            }
            return Err(exit.into());
        }
        Ok(Exit::Code(if output.is_yes { YES } else { NO }))
    }
}

impl CommandOutput {
    pub fn new(is_yes: bool, text: String, json: Value) -> Self {
        Self { is_yes, text, json, new_grant: None }
    }

    /// A grant that was acquired or renewed; `verb` is in the past tense.
    pub fn granted(verb: impl fmt::Display, request: &LockRequest, grant: Grant) -> Self {
        let (fencing_token, until) = (grant.fencing_token, clock(&grant.expires_at));
        let again = if grant.again { "; this owner held it already" } else { "" };
        let text = format!("{verb} {} until {until}, fencing token {fencing_token}{again}", request.name());
        Self::new(true, text, grant.answer)
    }

    pub fn not_held(request: &LockRequest, reason: NotHeld) -> Self {
        let (text, reason) = match reason {
            NotHeld::Free => ("not held", "not_held"),
            NotHeld::ByAnother => ("held by another owner", "held_by_another"),
        };
        let text = format!("{} is {text}", request.name());
        Self::new(false, text, json!({ "response": false, "name": request.name(), "reason": reason }))
    }

    /// The result of a release or a break; `verb` is in the past tense.
    pub fn ended(verb: &str, request: &LockRequest, result: Result<(), NotHeld>) -> Self {
        match result {
            Ok(()) => {
                let text = format!("{verb} {}", request.name());
                Self::new(true, text, json!({ "response": true, "name": request.name() }))
            }
            Err(reason) => Self::not_held(request, reason),
        }
    }
}
