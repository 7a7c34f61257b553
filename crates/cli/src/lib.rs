//! The client commands, one file each.

mod acquire;
mod args;
mod break_lock;
mod completions;
mod doctor;
mod enclosing;
mod error;
pub mod exit;
mod general;
mod healthcheck;
mod heartbeat;
mod history;
mod hold;
mod list;
mod login;
mod manual;
mod profile;
mod progress;
mod release;
mod run;
mod server;
mod server_command;
mod signals;
mod status;
mod status_line;
mod usage;
mod whoami;

use std::{
    fs::File,
    io::{self, Write},
};

use clap::Subcommand;
use tokio::runtime::{self, Runtime};

use self::{
    acquire::AcquireArgs,
    break_lock::BreakArgs,
    doctor::DoctorArgs,
    error::CliError,
    heartbeat::HeartbeatArgs,
    history::HistoryArgs,
    hold::HoldArgs,
    list::ListArgs,
    login::{LoginArgs, LogoutArgs},
    release::ReleaseArgs,
    server_command::ServerCommand,
    status::StatusArgs,
    whoami::WhoamiArgs,
};
pub use self::{
    general::{GeneralCommand, general},
    healthcheck::{Healthcheck, healthcheck},
    run::RunArgs,
    usage::{parse, without_empty_variables},
};
use crate::exit::Exit;

const YES: u8 = 0;
const NO: u8 = 1;
/// `EX_UNAVAILABLE` of sysexits.h: the server is unreachable, or returned an error.
const UNAVAILABLE: u8 = 69;
/// The number of file descriptors that a command needs before its first request: without them,
/// building the runtime panics.
const FILES_NEEDED: usize = 8;

const EXIT_CODES: &str = "\
Exit codes:
   0  yes: the lock was acquired, renewed or released, or it is held (status)
   1  no: the lock was not acquired, is not held by this owner, or is free (status)
   2  usage error, or no server or token
  69  the server is unreachable, or returned an error
  74  standard output cannot be written

The token is read from LOCKABLE_AUTH_TOKEN, from --token-file, or from lockable login. There is no option for the token itself, because other users can read the command line of a process.";

/// The client commands.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    Run(RunArgs),
    /// Acquire a lock, which the caller renews and releases
    #[command(after_help = EXIT_CODES)]
    Acquire(ServerCommand<AcquireArgs>),
    /// Renew the lease of a lock
    #[command(after_help = EXIT_CODES)]
    Heartbeat(ServerCommand<HeartbeatArgs>),
    /// Release a lock, or leave its queue
    #[command(after_help = EXIT_CODES)]
    Release(ServerCommand<ReleaseArgs>),
    /// Hold a lock for a fixed time, for example during maintenance
    #[command(after_help = EXIT_CODES)]
    Hold(ServerCommand<HoldArgs>),
    /// Show a lock's holder and the length of its queue
    #[command(after_help = EXIT_CODES)]
    Status(ServerCommand<StatusArgs>),
    /// List the locks that the account holds
    #[command(after_help = EXIT_CODES)]
    List(ServerCommand<ListArgs>),
    /// End a grant of the account by force; the audit log records it
    #[command(after_help = EXIT_CODES)]
    Break(ServerCommand<BreakArgs>),
    History(HistoryArgs),
    Login(LoginArgs),
    Logout(LogoutArgs),
    Whoami(WhoamiArgs),
    Doctor(DoctorArgs),
}

/// Executes a client command.
pub fn main(command: &ClientCommand) -> Exit {
    if let ClientCommand::Run(args) = command {
        return run::main(args);
    }
    let runtime = match start_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return error.report(),
    };
    let result = runtime.block_on(async {
        match command {
            ClientCommand::Run(args) => Ok(run::main(args)),
            ClientCommand::Acquire(command) => command.run().await,
            ClientCommand::Heartbeat(command) => command.run().await,
            ClientCommand::Release(command) => command.run().await,
            ClientCommand::Hold(command) => command.run().await,
            ClientCommand::Status(command) => command.run().await,
            ClientCommand::List(command) => command.run().await,
            ClientCommand::Break(command) => command.run().await,
            ClientCommand::History(args) => history::history(args).await,
            ClientCommand::Login(args) => login::login(args).await,
            ClientCommand::Logout(args) => login::logout(args),
            ClientCommand::Whoami(args) => whoami::whoami(args).await,
            ClientCommand::Doctor(args) => doctor::doctor(args).await,
        }
    });
    result.unwrap_or_else(|error| error.report())
}

/// Starts a runtime of one thread.
fn start_runtime() -> Result<Runtime, CliError> {
    let unavailable = |error: io::Error| CliError::Unavailable(format!("cannot start the runtime: {error}"));
    let files = (0..FILES_NEEDED).map(|_| File::open("/dev/null")).collect::<io::Result<Vec<_>>>();
    drop(files.map_err(unavailable)?);
    runtime::Builder::new_current_thread().enable_all().build().map_err(unavailable)
}

/// Writes a message to standard error; ignores a closed standard error.
fn print_message(message: &str) {
    print_line(&format!("lockable: {}", sanitized(message)));
}

fn print_line(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Replaces control characters, which a terminal would execute, in a text that is partly from
/// elsewhere.
fn sanitized(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}
