//! The command line, and nothing else.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is where the program speaks to a terminal")]

use std::{io, process::ExitCode};

use clap::{
    ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use clap_complete::Shell;
use lockable::{
    cli::{self, ClientCommand, Healthcheck, healthcheck},
    config::{ServeSettings, in_force},
    operator::{self, OperatorCommand},
    server, telemetry,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// flock for distributed systems, over plain HTTPS
#[derive(Parser)]
#[command(name = "lockable", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API
    Serve(ServeSettings),
    #[command(flatten)]
    Client(ClientCommand),
    Healthcheck(Healthcheck),
    /// Look at the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(flatten)]
    Operator(OperatorCommand),
    /// Print completions for a shell
    #[command(after_help = "\
Examples:
  lockable completions bash >/etc/bash_completion.d/lockable
  lockable completions zsh >/usr/local/share/zsh/site-functions/_lockable
  lockable completions fish >~/.config/fish/completions/lockable.fish")]
    Completions {
        shell: Shell,
    },
    /// Print a manual page: of lockable, or of one of its commands
    #[command(after_help = "Example: lockable man run | man -l -")]
    Man {
        command: Option<String>,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print what is in force for `serve`, secrets hidden
    Check(ServeSettings),
}

fn main() -> ExitCode {
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return refuse(&error),
    };
    match Cli::from_arg_matches(&matches) {
        Ok(Cli { command: Command::Serve(settings) }) => serve(settings),
        Ok(Cli { command: Command::Config(ConfigCommand::Check(settings)) }) => check(&settings, &matches),
        Ok(Cli { command: Command::Client(command) }) => cli::main(&command).into(),
        Ok(Cli { command: Command::Healthcheck(check) }) => ask_health(&check),
        Ok(Cli { command: Command::Operator(command) }) => operator::main(command),
        Ok(Cli { command: Command::Completions { shell } }) => {
            clap_complete::generate(shell, &mut Cli::command(), "lockable", &mut io::stdout());
            ExitCode::SUCCESS
        }
        Ok(Cli { command: Command::Man { command } }) => print_page(command.as_deref()),
        Err(error) => refuse(&error),
    }
}

fn serve(settings: ServeSettings) -> ExitCode {
    let outcome = telemetry::init(&settings.log, &settings.traces).map_err(Into::into).and_then(|traces| {
        let outcome = server::main(settings);
        traces.finish();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lockable: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_page(command: Option<&str>) -> ExitCode {
    let mut cli = Cli::command();
    // Names that a command is called by are known once it is built.
    cli.build();
    let page = match command {
        None => Some(cli),
        Some(name) => cli.find_subcommand(name).filter(|command| !command.is_hide_set()).map(|command| {
            let title: &'static str = format!("lockable-{name}").leak();
            command.clone().name(title).display_name(title)
        }),
    };
    let Some(page) = page else {
        eprintln!("lockable: there is no such command; see lockable --help");
        return ExitCode::FAILURE;
    };
    match clap_mangen::Man::new(page).render(&mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn ask_health(check: &Healthcheck) -> ExitCode {
    match healthcheck(check) {
        Ok((is_ready, answer)) => {
            println!("{answer}");
            if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("lockable: the server does not answer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the settings that `serve` would run with, after the checks that it
/// would make of them.
fn check(settings: &ServeSettings, matches: &ArgMatches) -> ExitCode {
    let mut cli = Cli::command();
    cli.build();
    let command = cli.find_subcommand("config").and_then(|config| config.find_subcommand("check"));
    let matches = matches.subcommand_matches("config").and_then(|config| config.subcommand_matches("check"));
    for setting in command.zip(matches).map_or(Vec::new(), |(command, matches)| in_force(command, matches)) {
        println!("{}={}  # {}", setting.variable, setting.value, setting.source);
    }
    match telemetry::check(&settings.log).map_err(Into::into).and_then(|()| server::check(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lockable: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Help as clap prints it; an error in one line that names the variable, too,
/// since that may be where the value came from.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(error.exit_code() as u8);
    }
    let flag = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let flag = flag.split([' ', '=']).next().unwrap_or_default();
    // A value that cannot be understood may be a secret all the same.
    let text = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) if value.contains(['@', ':']) || is_secret(flag) => {
            error.to_string().replace(&format!("'{value}'"), "'***'")
        }
        _ => error.to_string(),
    };
    let words = text.trim_start_matches("error: ").lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let line = words.collect::<Vec<_>>().join(" ");
    match variable_of(flag) {
        Some(variable) => eprintln!("lockable: {line} (also set by {variable})"),
        None => eprintln!("lockable: {line}; see lockable --help"),
    }
    ExitCode::from(error.exit_code() as u8)
}

/// The variable that sets the same as a flag such as `--listen`.
fn variable_of(flag: &str) -> Option<String> {
    Some(setting(&Cli::command(), flag.strip_prefix("--")?)?.get_env()?.to_string_lossy().into_owned())
}

/// Whether the value of a flag is shown nowhere.
fn is_secret(flag: &str) -> bool {
    let command = Cli::command();
    let setting = flag.strip_prefix("--").and_then(|long| setting(&command, long));
    setting.is_some_and(clap::Arg::is_hide_env_values_set)
}

/// The flag of this name that a variable sets, too.
fn setting<'a>(command: &'a clap::Command, long: &str) -> Option<&'a clap::Arg> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(long) && arg.get_env().is_some());
    own.or_else(|| command.get_subcommands().find_map(|command| setting(command, long)))
}
