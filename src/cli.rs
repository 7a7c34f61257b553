//! Commands that ask a server over HTTP, one file each.

mod args;
mod ask;
mod healthcheck;
mod run;
mod server;

use clap::Subcommand;
use tokio::runtime;

use self::ask::{Acquire, Ask, Break, Heartbeat, List, Release, Stat};
pub use self::{
    healthcheck::{Healthcheck, healthcheck},
    run::{Run, Watchdog, watchdog},
};

const YES: u8 = 0;
const NO: u8 = 1;
/// `EX_UNAVAILABLE` of sysexits.h: the server said neither yes nor no.
const FAILED: u8 = 69;

/// What a client of a server can do.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    Run(Run),
    Acquire(Ask<Acquire>),
    Heartbeat(Ask<Heartbeat>),
    Release(Ask<Release>),
    Status(Ask<Stat>),
    List(Ask<List>),
    Break(Ask<Break>),
}

/// Carries out a command. Returns the exit code.
pub fn main(command: &ClientCommand) -> u8 {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    let answered = runtime.block_on(async {
        match command {
            ClientCommand::Run(run) => Ok(run::run(run).await),
            ClientCommand::Acquire(ask) => ask.answer().await,
            ClientCommand::Heartbeat(ask) => ask.answer().await,
            ClientCommand::Release(ask) => ask.answer().await,
            ClientCommand::Status(ask) => ask.answer().await,
            ClientCommand::List(ask) => ask.answer().await,
            ClientCommand::Break(ask) => ask.answer().await,
        }
    });
    answered.unwrap_or_else(|reason| fail(&reason))
}

fn fail(reason: &str) -> u8 {
    say(reason);
    FAILED
}

#[expect(clippy::print_stderr, reason = "complaints of a command are for who runs it")]
fn say(words: &str) {
    eprintln!("lockable: {words}");
}
