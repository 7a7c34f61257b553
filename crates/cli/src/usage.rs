//! Parses the command line, and prints usage errors in clap's format.

use std::{
    borrow::Cow,
    env,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal},
};

use clap::{
    ArgMatches, Command,
    builder::{Resettable, StyledStr},
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use super::print_line;
use crate::exit::{self, Exit};

/// Options of `flock` and similar programs that `run` lacks, with the alternative.
const FOREIGN: &[(&[&str], &str)] = &[
    (&["-s", "--shared"], "shared locks are not available: every lock is exclusive"),
    (&["-x", "-e", "--exclusive"], "every lock is exclusive: leave this option out"),
    (&["-u", "--unlock"], "to release a lock that lockable acquire acquired, use lockable release NAME"),
    (&["-o", "--close", "-F", "--no-fork"], "the command inherits no locked file: leave this option out"),
    (&["--at-least", "--cooldown"], "a minimum time is not available: the lock is released when the command ends"),
    (&["--limit", "--permits"], "counted locks are not available: a lock has one holder"),
];

/// Commands of a service: their errors are one line, for its log.
const SERVICES: &[&str] = &["serve", "config"];
/// Commands with the settings of a service.
const OPERATORS: &[&str] = &["migrate", "account", "token", "namespace", "lock", "plan"];

/// Parses the command line.
///
/// # Errors
/// How the process ends after it has printed the help or a usage error.
pub fn parse(mut cli: Command) -> Result<ArgMatches, Exit> {
    let args: Vec<OsString> = env::args_os().collect();
    let matches = match without_empty_variables(cli.clone()).try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) => return Err(print_error(error, cli, &args)),
    };
    let is_given = |matches: &ArgMatches, id| matches.value_source(id) == Some(ValueSource::CommandLine);
    match matches.subcommand_matches("run") {
        // LOCKABLE_WAIT does not conflict with --no-wait, unlike --wait.
        Some(run) if is_given(run, "no_wait") && is_given(run, "wait") => {
            cli.build();
            let message = "the argument '--no-wait' cannot be used with '--wait <DURATION>'";
            let error = match cli.find_subcommand_mut("run") {
                Some(run) => run.error(ErrorKind::ArgumentConflict, message),
                None => cli.error(ErrorKind::ArgumentConflict, message),
            };
            Err(print_error(error, cli, &args))
        }
        _ => Ok(matches),
    }
}

/// Makes empty variables count as unset: CI systems set variables without a value to "".
pub fn without_empty_variables(command: Command) -> Command {
    let is_empty = |name: &OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| match arg.get_env().is_some_and(is_empty) {
            true => arg.env(Resettable::<clap::builder::OsStr>::Reset),
            false => arg,
        })
        .mut_subcommands(without_empty_variables)
}

fn print_error(mut error: clap::Error, mut cli: Command, args: &[OsString]) -> Exit {
    if !error.use_stderr() {
        let printed = match io::stdout().is_terminal() {
            true => error.print().map_err(|error| exit::unwritten(&error)),
            false => exit::print(&error.render().to_string()),
        };
        return printed.map_or_else(|exit| exit, |()| Exit::SUCCESS);
    }
    cli.build();
    let (command, path) = command_of(&cli, args);
    let mut command = command.clone();
    let variable = variable_of(&error, &command);
    let is_in = |commands: &[&str]| path.first().is_some_and(|word| commands.contains(&word.as_str()));
    hide_secret(&mut error, &command, is_in(SERVICES) || is_in(OPERATORS));
    let is_value = matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_in(SERVICES) && !is_help || is_in(OPERATORS) && is_value && variable.is_some() {
        print_line(&in_one_line(&error, variable.as_deref(), &path));
        return Exit::Code(error.exit_code() as u8);
    }
    if path.first().is_some_and(|word| word == "run") {
        // Clap suggests to put `--` before an unknown option, which would pass it to the command.
        error.remove(ContextKind::Suggested);
    }
    let mut tips = tips(&error, &path, args);
    if let Some(variable) = variable.filter(|variable| is_value_of(&error, variable)) {
        tips.push(format!("the value is from the variable {variable}"));
    }
    if !tips.is_empty() {
        let tips = tips.iter().map(StyledStr::from).collect();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    // Clap's own usage would include the options that variables set.
    error.insert(ContextKind::Usage, ContextValue::StyledStr(command.render_usage()));
    let error = error.with_cmd(&command);
    let _ = error.print();
    Exit::Code(error.exit_code() as u8)
}

/// The command that the arguments select, and its path.
fn command_of<'a>(cli: &'a Command, args: &[OsString]) -> (&'a Command, Vec<String>) {
    let (mut command, mut path) = (cli, Vec::new());
    for word in args.iter().skip(1).filter_map(|word| word.to_str()) {
        let Some(next) = command.find_subcommand(word) else { break };
        command = next;
        path.push(word.to_owned());
    }
    (command, path)
}

/// Suggests a correct command line.
fn tips(error: &clap::Error, path: &[String], args: &[OsString]) -> Vec<String> {
    if path.first().map(String::as_str) != Some("run") {
        return Vec::new();
    }
    let args: Vec<_> = args.iter().skip(1).map(|arg| arg.to_string_lossy()).collect();
    let dashes = args.iter().position(|arg| arg == "--");
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(unknown))) => {
            let foreign = FOREIGN.iter().find(|(flags, _)| flags.contains(&unknown.as_str()));
            if let Some((_, tip)) = foreign {
                return vec![(*tip).to_owned()];
            }
            if unknown.starts_with('-') {
                return Vec::new();
            }
            let at = args.iter().skip(2).position(|arg| arg == unknown).map(|at| at + 2);
            let (before, after) = args.split_at(at.unwrap_or(args.len()));
            match dashes {
                None => vec![format!(
                    "to run a command, put -- before it: lockable {} -- {}",
                    quoted(before),
                    quoted(after)
                )],
                Some(_) => vec![format!(
                    "a run holds one lock; for a second lock, nest the runs: lockable {} -- lockable run {}",
                    quoted(before),
                    quoted(after)
                )],
            }
        }
        (ErrorKind::MissingRequiredArgument, _) if dashes.is_none() => {
            vec!["put the command after --, as in: lockable run deploy -- ./deploy.sh".to_owned()]
        }
        _ => Vec::new(),
    }
}

/// Quotes words for a shell.
fn quoted(words: &[Cow<'_, str>]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let quoted = words.iter().map(|word| match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// The option in the error, such as `--listen`.
fn flag_of(error: &clap::Error) -> String {
    let flag = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    flag.split([' ', '=']).next().unwrap_or_default().to_owned()
}

fn argument<'a>(error: &clap::Error, command: &'a Command) -> Option<&'a clap::Arg> {
    let flag = flag_of(error);
    let long = flag.strip_prefix("--")?;
    command.get_arguments().find(|arg| arg.get_long() == Some(long))
}

/// The variable of the option in the error.
fn variable_of(error: &clap::Error, command: &Command) -> Option<String> {
    Some(argument(error, command)?.get_env()?.to_string_lossy().into_owned())
}

fn is_value_of(error: &clap::Error, variable: &str) -> bool {
    let value = env::var(variable).unwrap_or_default();
    matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(invalid)) if *invalid == value)
}

/// Hides a value that may be a secret, although it is invalid.
fn hide_secret(error: &mut clap::Error, command: &Command, is_service: bool) {
    let is_secret = argument(error, command).is_some_and(clap::Arg::is_hide_env_values_set);
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && (is_secret || value.contains('@') || is_service && value.contains(':'))
    {
        error.insert(ContextKind::InvalidValue, ContextValue::String("***".to_owned()));
    }
}

fn in_one_line(error: &clap::Error, variable: Option<&str>, path: &[String]) -> String {
    let text = error.render().to_string();
    let lines = text.trim_start_matches("error: ").lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let line = lines.collect::<Vec<_>>().join(" ");
    match variable {
        Some(variable) => format!("lockable: {line} (also set by {variable})"),
        None => format!("lockable: {line}; see lockable {} --help", path.join(" ")),
    }
}
