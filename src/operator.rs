//! The operator's commands, which use the account database. One file per noun.

mod account;
mod dev_cert;
mod lock;
mod namespace;
mod output;
mod plan;
mod token;

use clap::{Args, Subcommand};
use lockable_cli::exit::Exit;

use self::output::{Printer, TableRow};
use crate::{
    accounts::{AccountsError, Database},
    config::DatabaseSettings,
};

/// The operator's commands.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Migrate the account database to the schema version of this program
    Migrate(CommonOptions),
    /// Create, show and change accounts
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Create, list and revoke tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Create and list the private namespaces of an account
    #[command(subcommand)]
    Namespace(namespace::NamespaceCommand),
    /// Show and break locks of any account; a running server of this database executes the
    /// command
    #[command(subcommand)]
    Lock(lock::LockCommand),
    /// List and change plans
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Create a certificate for localhost, to try HTTPS
    DevCert(dev_cert::DevCert),
}

/// Options that all commands share.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct CommonOptions {
    #[command(flatten)]
    database: DatabaseSettings,
    /// Print JSON
    #[arg(long, help_heading = None)]
    json: bool,
}

const EXIT_CODES: &str =
    "Exit codes: 0 success, 1 failure, 2 invalid usage, 3 account, token, namespace, plan or grant not found";

/// Exit code if the account, token, namespace, plan or grant does not exist.
pub const EXIT_NOT_FOUND: u8 = 3;

/// Runs a command and returns its exit code.
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

#[expect(clippy::print_stderr, reason = "a command reports its errors on standard error")]
fn report(outcome: Result<(), (u8, String)>) -> Exit {
    match outcome {
        Ok(()) => output::write_failure().unwrap_or(Exit::SUCCESS),
        Err((code, message)) => {
            eprintln!("lockable: {message}");
            Exit::Code(code)
        }
    }
}

async fn run(command: OperatorCommand) -> Result<(), AccountsError> {
    match command {
        OperatorCommand::Migrate(common) => {
            Database::open(&common.database).await?.migrate().await?;
            common.printer().done("migrated the account database to the schema version of this program");
            Ok(())
        }
        OperatorCommand::Account(command) => command.run().await,
        OperatorCommand::Token(command) => command.run().await,
        OperatorCommand::Namespace(command) => command.run().await,
        OperatorCommand::Lock(command) => command.run().await,
        OperatorCommand::Plan(command) => command.run().await,
        // `main` runs it without a database.
        OperatorCommand::DevCert(_) => Ok(()),
    }
}

impl CommonOptions {
    /// Opens the database. An embedded database is migrated first: no other program uses it.
    async fn open(&self) -> Result<(Database, Printer), AccountsError> {
        let database = Database::open(&self.database).await?;
        if database.is_embedded() {
            database.migrate().await?;
        }
        database.check_version().await?;
        Ok((database, self.printer()))
    }

    fn printer(&self) -> Printer {
        Printer { is_json: self.json }
    }
}
