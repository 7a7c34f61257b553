//! The client commands of Lockable, without the server.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use lockable_cli::{ClientCommand, GeneralCommand, exit::Exit};

/// flock for distributed systems, over plain HTTPS: the client commands
#[derive(Parser)]
#[command(name = "lockable", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[expect(clippy::large_enum_variant, reason = "there is one value in the process")]
#[derive(Subcommand)]
enum CliCommand {
    #[command(flatten)]
    Client(ClientCommand),
    #[command(flatten)]
    General(GeneralCommand),
}

fn main() -> ExitCode {
    let parsed = lockable_cli::parse(Cli::command()).and_then(|matches| {
        Cli::from_arg_matches(&matches).map_err(|error| {
            let _ = error.print();
            Exit::Code(error.exit_code() as u8)
        })
    });
    let exit = match parsed.map(|cli| cli.command) {
        Ok(CliCommand::Client(command)) => lockable_cli::main(&command),
        Ok(CliCommand::General(command)) => lockable_cli::general(&command, Cli::command()),
        Err(exit) => exit,
    };
    exit.report()
}
