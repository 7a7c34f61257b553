//! `lockable run`: a command that runs while a lock is held.

mod cgroup;
mod command;
mod descendants;
mod held;
mod inherited;
mod orders;
mod signals;
mod terminal;
mod watch;
mod watchdog;

use std::{ffi::OsString, process, time::Duration};

use nix::libc;

use self::{
    descendants::Ending,
    signals::{Caught, Signals},
    watch::Watch,
};
use super::{
    args::{HoldArgs, LockArgs, duration},
    fail, runtime, say,
    server::ServerArgs,
    waiting,
};
use crate::client::{Client, Error, Lock, LockRequest, Moment};

/// `EX_TEMPFAIL` of sysexits.h: try again later.
const NOT_ACQUIRED: u8 = 75;

/// Run a command while holding a lock
///
/// Waits for the lock, runs the command, keeps the lock while it runs, and
/// releases it in every ending. Nothing is written to standard output but what
/// the command writes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes:
  the command's own; it dies of signal N (128+N in a shell) when that ended the command or the wait; 126 when it cannot be run, 127 when there is none
  75  the lock was not acquired (-E chooses another)
  74  the lock was lost, and the command was stopped
  69  the server could not be asked, or said neither yes nor no

The token stands in LOCKABLE_AUTH_TOKEN, in the file that --token-file names, or where lockable login has put it: never on the command line, which others can read.

The command finds LOCKABLE_LOCK, LOCKABLE_FENCING_TOKEN, LOCKABLE_OWNER and LOCKABLE_EXPIRES_AT in its environment.

Examples:
  lockable run deploy-prod -- ./deploy.sh
  lockable run -w 10m --lease 2m --note \"build $BUILD\" deploy-prod -- make deploy
  lockable run -n nightly-report -- ./report || echo 'runs elsewhere'")]
pub struct Run {
    #[command(flatten)]
    lock: LockArgs,

    #[command(flatten)]
    hold: HoldArgs,

    /// The command and its arguments, run without a shell
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// Do not wait for the lock
    #[arg(short, long, conflicts_with = "wait")]
    no_wait: bool,

    /// How long to wait for the lock; for ever unless set
    #[arg(short, long, value_parser = duration, value_name = "DURATION")]
    wait: Option<Duration>,

    /// The exit code when the lock was not acquired
    #[arg(short = 'E', long, default_value_t = NOT_ACQUIRED, value_name = "CODE")]
    conflict_exit_code: u8,

    /// Do not say that the lock is held by another; only what goes wrong
    #[arg(short, long)]
    quiet: bool,

    /// What to do with the command when the lock cannot be relied on any more: send TERM, and KILL before the lease lapses; KILL at once; or nothing
    #[arg(long, value_enum, default_value_t = OnLost::Term)]
    on_lost: OnLost,

    /// How long before the lease lapses TERM is sent, KILL when it lapses; at most a third of the lease [default: 10s, or a quarter of the lease]
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    kill_after: Option<Duration>,

    /// Leave processes running that the command has started and left in the background when it ends; the lock does not protect what they do
    #[arg(long)]
    leave_background: bool,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnLost {
    Term,
    Kill,
    Ignore,
}

/// Runs it. Returns the exit code, or dies of the signal that ended the command or the wait.
pub(super) fn main(run: &Run) -> u8 {
    // A forked process must not inherit threads, so this comes before the runtime.
    let watchdog = match watch::start(run) {
        Ok(watchdog) => watchdog,
        Err(error) => return fail(&format!("cannot start the watchdog: {error}")),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(reason) => return fail(&reason),
    };
    let ending = runtime.block_on(hold_and_run(run, watchdog));
    // A lookup of a name may go on in another thread.
    runtime.shutdown_background();
    match ending {
        Ok(Ending::Code(code)) => code,
        Ok(Ending::Signal(number)) => signals::die_of(number),
        Err(reason) => fail(&reason),
    }
}

fn prepare(run: &Run) -> Result<(Client, LockRequest), String> {
    let client = run.server.client()?;
    let owner = run.lock.owner.clone().unwrap_or_else(unique_owner);
    let request = run.lock.request().and_then(|request| request.owner(&owner)).map_err(|error| error.to_string())?;
    Ok((client, run.hold.apply(request)))
}

/// Says where a run is to be found, and is different for every run.
fn unique_owner() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok()).unwrap_or_default();
    let host: String = host.chars().filter(char::is_ascii_graphic).take(64).collect();
    format!("{host}:{}:{:08x}", process::id(), fastrand::u32(..))
}

async fn hold_and_run(run: &Run, watchdog: watch::Forked) -> Result<Ending, String> {
    let caught = signals::catch(&watchdog.mask).and_then(Signals::new);
    let mut signals = caught.map_err(|error| format!("cannot catch signals: {error}"))?;
    let mut watch = Watch::new(watchdog).map_err(|error| format!("cannot reach the watchdog: {error}"))?;
    let ending = acquire_and_run(run, &mut watch, &mut signals).await;
    watch.end().await;
    ending
}

async fn acquire_and_run(run: &Run, watch: &mut Watch, signals: &mut Signals) -> Result<Ending, String> {
    let (client, request) = prepare(run)?;
    let until = match (run.no_wait, run.wait) {
        (true, _) => Some(Moment::now()),
        (false, wait) => wait.map(|wait| Moment::now() + wait),
    };
    let acquired = tokio::select! {
        acquired = waiting::acquire(&client, &request, until, run.quiet) => acquired,
        ending = interruption(watch, signals) => {
            // The lock may be ours already, though no answer has said so.
            tokio::select! {
                () = client.leave(&request) => {}
                _ = signals.urgent() => {}
            }
            return ending;
        }
    };
    let grant = match acquired {
        Ok(grant) => grant,
        Err(Error::NotAcquired(refusal)) => {
            if !run.quiet {
                say(&format!("{} {refusal}", run.lock.name));
            }
            return Ok(Ending::Code(run.conflict_exit_code));
        }
        Err(error) => return Err(error.to_string()),
    };
    let lock = Lock::keep(client, request, grant);
    let over = held::run(run, &lock, watch, signals).await;
    if over.is_to_release {
        release(lock, signals).await;
    } else {
        lock.abandon();
    }
    Ok(over.ending)
}

/// What ends the wait for the lock: a signal, or the end of the process that was to become the
/// command, which gets the terminal's signals, too.
async fn interruption(watch: &mut Watch, signals: &mut Signals) -> Result<Ending, String> {
    loop {
        tokio::select! {
            caught = signals.next() => match caught {
                Caught { number: libc::SIGCHLD, .. } => watch.look_after(),
                Caught { number, .. } if signals::is_stop(number) => signals::stop_by(number),
                caught if caught.is_ending() => return Ok(Ending::Signal(caught.number)),
                _ => {}
            },
            report = watch.report() => match report {
                Some(orders::Report::Ended(ending)) => return Ok(ending),
                Some(orders::Report::NotStarted(error)) => {
                    return Err(format!("cannot start a process: {}", std::io::Error::from_raw_os_error(error)));
                }
                Some(_) => {}
                None => return Err("the watchdog was killed".to_owned()),
            },
        }
    }
}

/// Releases the lock, unless somebody is in a hurry: then its lease has to expire.
async fn release(lock: Lock, signals: &mut Signals) {
    signals.discard();
    let failure = tokio::select! {
        released = lock.release() => released.err().map(|error| error.to_string()),
        number = signals.urgent() => Some(signals::name(number)),
    };
    if let Some(failure) = failure {
        say(&format!("the lock is not released, and stays held until its lease expires: {failure}"));
    }
}
