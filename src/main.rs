//! The command line of `lockable`.

#![expect(clippy::print_stderr, reason = "the command line prints errors to the terminal")]

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use lockable::{
    config::{ServeSettings, in_force},
    operator::{self, OperatorCommand},
    server, telemetry,
};
use lockable_cli::{
    ClientCommand, GeneralCommand, Healthcheck,
    exit::{self, Exit},
    healthcheck,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// flock for distributed systems, over plain HTTPS
#[derive(Parser)]
#[command(name = "lockable", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    /// Start a server
    Serve(ServeSettings),
    #[command(flatten)]
    Client(ClientCommand),
    Healthcheck(Healthcheck),
    /// Inspect the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(flatten)]
    Operator(OperatorCommand),
    #[command(flatten)]
    General(GeneralCommand),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check the settings of `serve` and print their effective values, with secrets masked
    Check(ServeSettings),
}

fn main() -> ExitCode {
    let parsed = lockable_cli::parse(Cli::command()).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches).map_err(|error| {
            let _ = error.print();
            Exit::Code(error.exit_code() as u8)
        });
        Ok((cli?, matches))
    });
    let exit = match parsed {
        Ok((cli, matches)) => run(cli.command, &matches),
        Err(exit) => exit,
    };
    exit.report()
}

fn run(command: CliCommand, matches: &ArgMatches) -> Exit {
    match command {
        CliCommand::Serve(settings) => serve(settings),
        CliCommand::Config(ConfigCommand::Check(settings)) => check(&settings, matches),
        CliCommand::Client(command) => lockable_cli::main(&command),
        CliCommand::Healthcheck(check) => check_health(&check),
        CliCommand::Operator(command) => operator::main(command),
        CliCommand::General(command) => lockable_cli::general(&command, Cli::command()),
    }
}

fn print(bytes: &[u8]) -> Exit {
    exit::print_bytes(bytes).map_or_else(|exit| exit, |()| Exit::SUCCESS)
}

fn fail(reason: &str) -> Exit {
    eprintln!("lockable: {reason}");
    Exit::FAILURE
}

fn serve(settings: ServeSettings) -> Exit {
    let outcome = telemetry::init(&settings.log, &settings.traces).map_err(Into::into).and_then(|traces| {
        let outcome = server::main(settings);
        traces.finish();
        outcome
    });
    match outcome {
        Ok(()) => Exit::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn check_health(check: &Healthcheck) -> Exit {
    match healthcheck(check) {
        Ok((is_ready, answer)) => match print(format!("{answer}\n").as_bytes()) {
            Exit::SUCCESS if is_ready => Exit::SUCCESS,
            Exit::SUCCESS => Exit::FAILURE,
            exit => exit,
        },
        Err(error) => fail(&format!("no answer from the server: {error}")),
    }
}

/// Prints the effective settings of `serve` and runs its start-up checks.
fn check(settings: &ServeSettings, matches: &ArgMatches) -> Exit {
    let mut cli = Cli::command();
    cli.build();
    let command = cli.find_subcommand("config").and_then(|config| config.find_subcommand("check"));
    let matches = matches.subcommand_matches("config").and_then(|config| config.subcommand_matches("check"));
    let in_force = command.zip(matches).map_or(Vec::new(), |(command, matches)| in_force(command, matches));
    let lines =
        in_force.iter().map(|setting| format!("{}={}  # {}\n", setting.variable, setting.value, setting.source));
    let printed = print(lines.collect::<String>().as_bytes());
    match telemetry::check(&settings.log).map_err(Into::into).and_then(|()| server::check(settings)) {
        Ok(()) => printed,
        Err(error) => fail(&format!("{error:#}")),
    }
}
