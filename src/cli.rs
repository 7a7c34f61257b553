//! Commands that ask a server over HTTP, one file each.

mod args;
mod ask;
mod doctor;
mod healthcheck;
mod login;
mod profile;
mod run;
mod server;
mod waiting;

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
};

use clap::Subcommand;
use tokio::runtime::{self, Runtime};

use self::{
    ask::{Acquire, Ask, Break, Heartbeat, List, Release, Stat},
    doctor::{Doctor, doctor},
    login::{Login, login},
};
pub use self::{
    healthcheck::{Healthcheck, healthcheck},
    run::Run,
};

const YES: u8 = 0;
const NO: u8 = 1;
/// `EX_UNAVAILABLE` of sysexits.h: the server said neither yes nor no.
const FAILED: u8 = 69;

/// How many file descriptors a runtime and one connection take.
const SPARE_FILES: usize = 8;

const EXIT_CODES: &str = "\
Exit codes: 0 yes, 1 no, 2 wrong usage, 69 the server could not be asked, or said neither yes nor no

The token stands in LOCKABLE_AUTH_TOKEN, in the file that --token-file names, or where lockable login has put it: never on the command line, which others can read.";

/// What a client of a server can do.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    Run(Run),
    /// Acquire a lock, which somebody has to renew and release then
    #[command(after_help = EXIT_CODES)]
    Acquire(Ask<Acquire>),
    /// Renew the lease of a lock
    #[command(after_help = EXIT_CODES)]
    Heartbeat(Ask<Heartbeat>),
    /// Release a lock, or leave the line of those who wait for it
    #[command(after_help = EXIT_CODES)]
    Release(Ask<Release>),
    /// Say who holds a lock: yes if somebody does
    #[command(after_help = EXIT_CODES)]
    Status(Ask<Stat>),
    /// List the locks that the account holds
    #[command(after_help = EXIT_CODES)]
    List(Ask<List>),
    /// Take a lock from whoever of the account holds it; recorded in the audit log
    #[command(after_help = EXIT_CODES)]
    Break(Ask<Break>),
    /// Remember a server and a token, which is asked for or read from standard input
    Login(Login),
    /// Say what is wrong with address, TLS, token or plan
    #[command(after_help = "Exit codes: 0 all is well, 1 something is wrong")]
    Doctor(Doctor),
}

/// Carries out a command. Returns the exit code.
pub fn main(command: &ClientCommand) -> u8 {
    if let ClientCommand::Run(run) = command {
        return run::main(run);
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(reason) => return fail(&reason),
    };
    let answered = runtime.block_on(async {
        match command {
            ClientCommand::Run(run) => Ok(run::main(run)),
            ClientCommand::Acquire(ask) => ask.answer().await,
            ClientCommand::Heartbeat(ask) => ask.answer().await,
            ClientCommand::Release(ask) => ask.answer().await,
            ClientCommand::Status(ask) => ask.answer().await,
            ClientCommand::List(ask) => ask.answer().await,
            ClientCommand::Break(ask) => ask.answer().await,
            ClientCommand::Login(ask) => Ok(login(ask).await),
            ClientCommand::Doctor(ask) => Ok(doctor(ask).await),
        }
    });
    answered.unwrap_or_else(|reason| fail(&reason))
}

/// A runtime for one thread.
fn runtime() -> Result<Runtime, String> {
    let cannot = |error: io::Error| format!("cannot start: {error}");
    // The runtime panics when it gets no file descriptors.
    let spare: io::Result<Vec<_>> = (0..SPARE_FILES / 2).map(|_| UnixStream::pair()).collect();
    drop(spare.map_err(cannot)?);
    runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)
}

fn fail(reason: &str) -> u8 {
    say(reason);
    FAILED
}

/// Complains to who runs the command, if anybody hears it still.
fn say(words: &str) {
    let _ = writeln!(io::stderr(), "lockable: {}", plain(words));
}

/// A text that comes in part from elsewhere, as it can be shown on a terminal: control
/// characters in it would be carried out there.
fn plain(words: &str) -> String {
    words
        .chars()
        .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}
