//! Commands that ask a server over HTTP, one file each.

mod account;
mod acquire;
mod args;
mod ask;
mod completions;
mod doctor;
mod enclosing;
mod failure;
mod healthcheck;
mod interrupt;
mod login;
mod manual;
mod profile;
mod progress;
mod run;
mod screen;
mod server;
mod usage;

use std::{
    fs::File,
    io::{self, Write},
};

use clap::Subcommand;
use tokio::runtime::{self, Runtime};

use self::{
    account::{History, Whoami},
    acquire::{Acquire, Hold},
    ask::{Ask, Break, Heartbeat, List, Release, Stat},
    doctor::Doctor,
    failure::Failure,
    login::{Login, Logout},
};
pub use self::{
    completions::completions,
    healthcheck::{Healthcheck, healthcheck},
    manual::manual,
    run::Run,
    usage::{parse, without_empty_variables},
};
use crate::exit::Exit;

const YES: u8 = 0;
const NO: u8 = 1;
/// `EX_UNAVAILABLE` of sysexits.h: the server said neither yes nor no.
const FAILED: u8 = 69;
/// How many files a command needs at most before it asks the server: the runtime panics when
/// it cannot have its own.
const FILES_NEEDED: usize = 8;

const EXIT_CODES: &str = "\
Exit codes:
   0  yes
   1  no
   2  wrong usage, or no server or token
  69  the server could not be asked, or said neither yes nor no
  74  the answer could not be written

The token is read from LOCKABLE_AUTH_TOKEN, from the file of --token-file, or from lockable login; never from the command line, which others can read.";

/// What a client of a server can do.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    Run(Run),
    /// Acquire a lock, which the caller renews and releases
    #[command(after_help = EXIT_CODES)]
    Acquire(Ask<Acquire>),
    /// Renew the lease of a lock
    #[command(after_help = EXIT_CODES)]
    Heartbeat(Ask<Heartbeat>),
    /// Release a lock, or leave its queue
    #[command(after_help = EXIT_CODES)]
    Release(Ask<Release>),
    /// Keep a lock for a while, as a person does during maintenance
    #[command(after_help = EXIT_CODES)]
    Hold(Ask<Hold>),
    /// Show who holds a lock: yes if somebody does
    #[command(after_help = EXIT_CODES)]
    Status(Ask<Stat>),
    /// List the locks that the account holds
    #[command(after_help = EXIT_CODES)]
    List(Ask<List>),
    /// End a grant of the account; recorded in the audit log
    #[command(after_help = EXIT_CODES)]
    Break(Ask<Break>),
    History(History),
    Login(Login),
    Logout(Logout),
    Whoami(Whoami),
    Doctor(Doctor),
}

/// Carries out a command.
pub fn main(command: &ClientCommand) -> Exit {
    if let ClientCommand::Run(run) = command {
        return run::main(run);
    }
    let runtime = match start() {
        Ok(runtime) => runtime,
        Err(failure) => return failure.report(),
    };
    let answered = runtime.block_on(async {
        match command {
            ClientCommand::Run(run) => Ok(run::main(run)),
            ClientCommand::Acquire(ask) => ask.answer().await,
            ClientCommand::Heartbeat(ask) => ask.answer().await,
            ClientCommand::Release(ask) => ask.answer().await,
            ClientCommand::Hold(ask) => ask.answer().await,
            ClientCommand::Status(ask) => ask.answer().await,
            ClientCommand::List(ask) => ask.answer().await,
            ClientCommand::Break(ask) => ask.answer().await,
            ClientCommand::History(history) => account::history(history).await,
            ClientCommand::Login(login) => login::login(login).await,
            ClientCommand::Logout(logout) => login::logout(logout),
            ClientCommand::Whoami(whoami) => account::whoami(whoami).await,
            ClientCommand::Doctor(doctor) => doctor::doctor(doctor).await,
        }
    });
    answered.unwrap_or_else(|failure| failure.report())
}

/// A runtime for one thread.
fn start() -> Result<Runtime, Failure> {
    let cannot = |error: io::Error| Failure::Unavailable(format!("cannot start: {error}"));
    let files = (0..FILES_NEEDED).map(|_| File::open("/dev/null")).collect::<io::Result<Vec<_>>>();
    drop(files.map_err(cannot)?);
    runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)
}

/// Writes a message to standard error, if it is open.
fn say(words: &str) {
    say_plainly(&format!("lockable: {}", plain(words)));
}

fn say_plainly(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// A text that comes in part from elsewhere, without the control characters that a terminal
/// would carry out.
fn plain(words: &str) -> String {
    words
        .chars()
        .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}
