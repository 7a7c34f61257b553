//! The operator's commands, which work on the account database. One file a noun.

mod account;
mod dev_cert;
mod lock;
mod namespace;
mod output;
mod plan;
mod token;

use clap::{Args, Subcommand};

use self::output::{Output, Shown};
use crate::{
    accounts::{AccountsError, Database},
    config::DatabaseSettings,
    exit::Exit,
};

/// What an operator can do.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Bring the account database to this version
    Migrate(Target),
    /// Make, look at and change accounts
    #[command(subcommand)]
    Account(account::Command),
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Make and list the private namespaces of an account
    #[command(subcommand)]
    Namespace(namespace::Command),
    /// Show and break locks of any account, by way of a server that runs on the database
    #[command(subcommand)]
    Lock(lock::Command),
    /// List plans and change their figures
    #[command(subcommand)]
    Plan(plan::Command),
    /// Make a certificate for localhost, for trying HTTPS
    DevCert(dev_cert::DevCert),
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct Target {
    #[command(flatten)]
    database: DatabaseSettings,
    /// Print JSON
    #[arg(long, help_heading = None)]
    json: bool,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such account, token, namespace, plan or grant";

/// The exit code for something that does not exist.
pub const EXIT_NOT_FOUND: u8 = 3;

/// Carries out a command; what it prints and returns is for the shell.
pub fn main(command: OperatorCommand) -> Exit {
    if let OperatorCommand::DevCert(command) = command {
        return report(command.run().map_err(|error| (1, format!("{error:#}"))));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(Err((1, format!("cannot start the runtime: {error}")))),
    };
    report(runtime.block_on(run(command)).map_err(|error| {
        let code = if matches!(error, AccountsError::NotFound { .. }) { EXIT_NOT_FOUND } else { 1 };
        (code, error.to_string())
    }))
}

#[expect(clippy::print_stderr, reason = "complaints of a command are for who runs it")]
fn report(outcome: Result<(), (u8, String)>) -> Exit {
    match outcome {
        Ok(()) => output::lost().unwrap_or(Exit::SUCCESS),
        Err((code, message)) => {
            eprintln!("lockable: {message}");
            Exit::Code(code)
        }
    }
}

async fn run(command: OperatorCommand) -> Result<(), AccountsError> {
    match command {
        OperatorCommand::Migrate(target) => {
            Database::open(&target.database).await?.migrate().await?;
            target.output().done("the database is at this version");
            Ok(())
        }
        OperatorCommand::Account(command) => command.run().await,
        OperatorCommand::Token(command) => command.run().await,
        OperatorCommand::Namespace(command) => command.run().await,
        OperatorCommand::Lock(command) => command.run().await,
        OperatorCommand::Plan(command) => command.run().await,
        // Has been carried out without a database.
        OperatorCommand::DevCert(_) => Ok(()),
    }
}

impl Target {
    /// Opens the database. The embedded one is brought to this version on the
    /// way: it belongs to nobody else.
    async fn open(&self) -> Result<(Database, Output), AccountsError> {
        let database = Database::open(&self.database).await?;
        if database.is_embedded() {
            database.migrate().await?;
        }
        database.check_version().await?;
        Ok((database, self.output()))
    }

    fn output(&self) -> Output {
        Output { is_json: self.json }
    }
}
