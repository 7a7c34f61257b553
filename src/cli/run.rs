//! `lockable run`: a command that runs while a lock is held.

mod cgroup;
mod command;
mod descendants;
mod environment;
mod held;
mod holder;
mod inherited;
mod orders;
mod outcome;
mod signals;
mod terminal;
mod watch;
mod watchdog;

use std::{ffi::OsString, io, time::Duration};

use clap::{ValueHint, builder::FalseyValueParser};

use nix::libc;

use self::{
    descendants::Ending,
    outcome::Report,
    signals::{Caught, Signals},
    watch::Watch,
};
use super::{
    args::{HoldArgs, NameArgs, duration, owner},
    failure::Failure,
    progress, say,
    server::{Server, ServerArgs},
    start,
};
use crate::{
    client::{BootTime, Client, Error, Grant, Lock, LockRequest},
    exit::Exit,
};

/// `EX_TEMPFAIL` of sysexits.h: try again later.
const NOT_ACQUIRED: u8 = 75;
/// What `--help` and the manual page call what runs.
const USAGE: &str = "\
lockable run [OPTIONS] <NAME> -- <COMMAND>...
       lockable run [OPTIONS] <NAME> -c <LINE>";

/// Run a command while holding a lock
///
/// Waits for the lock, runs the command, renews the lock while it runs, and releases it in every
/// ending. Only the command writes to standard output.
#[derive(Clone, Debug, clap::Args)]
#[command(override_usage = USAGE, after_help = "\
Exit codes:
  the command's own; it dies of signal N (128+N in a shell) when that ended the command or the wait; 126 when it cannot be run, 127 when there is none
  75  the lock was not acquired (-E chooses another)
  74  the lock was lost, and the command was stopped
  69  the server could not be asked, or said neither yes nor no
   2  wrong usage, such as an invalid name, a lease outside the plan's range, or no server or token

A signal that ends the wait ends lockable itself.

The token is read from LOCKABLE_AUTH_TOKEN, from the file of --token-file, or from lockable login; never from the command line, which others can read. The command inherits all of these variables.

The command finds LOCKABLE_LOCK, LOCKABLE_FENCING_TOKEN, LOCKABLE_HOLDER and LOCKABLE_EXPIRES_AT in its environment.

Examples:
  lockable run deploy-prod -- ./deploy.sh
  lockable run deploy-prod -c './build | tee log'
  lockable run -w 10min --lease 2m --note \"build $BUILD\" deploy-prod -- make deploy
  lockable run -n nightly-report -- ./report || echo 'runs elsewhere'")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Run {
    #[command(flatten)]
    lock: NameArgs,

    /// A label for the lock's holder; host, process and a random number are added, so that each run is a holder of its own
    #[arg(long, env = "LOCKABLE_OWNER", value_parser = owner)]
    owner: Option<String>,

    /// Hold the lock as exactly this owner, and take over what an earlier run of it holds. Two runs of one owner at once do not exclude each other
    #[arg(long, requires = "owner")]
    resume: bool,

    #[command(flatten)]
    hold: HoldArgs,

    /// The command and its arguments, run without a shell
    #[arg(last = true, required_unless_present = "shell_line", value_name = "COMMAND",
        value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,

    /// Run this line with sh -c instead of a command
    #[arg(short = 'c', long = "command", value_name = "LINE", conflicts_with = "command",
        value_hint = ValueHint::CommandString)]
    shell_line: Option<OsString>,

    /// Do not wait for the lock
    #[arg(short, long, alias = "nonblock", alias = "nb")]
    no_wait: bool,

    /// How long to wait for the lock [default: for ever]
    #[arg(short, long, env = "LOCKABLE_WAIT", alias = "timeout", value_parser = duration, value_name = "DURATION")]
    wait: Option<Duration>,

    /// The exit code when the lock was not acquired
    #[arg(short = 'E', long, env = "LOCKABLE_CONFLICT_EXIT_CODE", default_value_t = NOT_ACQUIRED, value_name = "CODE")]
    conflict_exit_code: u8,

    /// Show failures only, not who holds the lock
    #[arg(short, long, env = "LOCKABLE_QUIET", value_parser = FalseyValueParser::new())]
    quiet: bool,

    /// Show when the lock is acquired and released
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,

    /// Write the outcome as a line of JSON to standard error, as its last line
    #[arg(long)]
    json: bool,

    /// What to do with the command when the lock is lost or may be: send TERM, and KILL before the lease lapses; KILL at once; or nothing
    #[arg(long, env = "LOCKABLE_ON_LOST", value_enum, default_value_t = OnLost::Term)]
    on_lost: OnLost,

    /// How long before the lease lapses TERM is sent, and KILL when it lapses; at most a third of the lease [default: 10s, or a quarter of the lease]
    #[arg(long, env = "LOCKABLE_KILL_AFTER", value_parser = duration, value_name = "DURATION")]
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

/// Runs it. Dies of the signal that ended the command or the wait.
pub(super) fn main(run: &Run) -> Exit {
    let mut run = run.clone();
    if let Some(line) = run.shell_line.take() {
        run.command = vec!["sh".into(), "-c".into(), line];
    }
    let mut report = Report::new(run.json, &run.lock.name);
    let (outcome, ending) = match start_and_run(&run, &mut report) {
        Ok(ended) => ended,
        Err(failure) => return fail(&failure, report),
    };
    match ending {
        Ending::Code(code) => {
            report.end(outcome, code);
            Exit::Code(code)
        }
        Ending::Signal(number) => {
            report.end(outcome, 128 + number as u8);
            Exit::Code(signals::die_of(number))
        }
    }
}

/// Returns the outcome for the report, and how the command or the wait ended.
fn start_and_run(run: &Run, report: &mut Report) -> Result<(&'static str, Ending), Failure> {
    // A forked process must not inherit threads, so this comes before the runtime.
    let watchdog = watch::start(run).map_err(unavailable("cannot start the watchdog"))?;
    let runtime = start()?;
    let ended = runtime.block_on(hold_and_run(run, watchdog, report));
    // A lookup of a name may go on in another thread.
    runtime.shutdown_background();
    ended
}

fn unavailable(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Unavailable(format!("{what}: {error}"))
}

/// What a run needs before it asks the server.
struct Prepared {
    server: Server,
    client: Client,
    request: LockRequest,
    holder: String,
}

fn prepare(run: &Run) -> Result<Prepared, Failure> {
    let server = run.server.server()?;
    let client = server.client()?;
    let holder = match (&run.owner, run.resume) {
        (Some(owner), true) => owner.clone(),
        (label, _) => holder::unique(label.as_deref()),
    };
    let request = run.lock.request().and_then(|request| request.owner(&holder));
    let request = request.map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(Prepared { server, client, request: run.hold.apply(request), holder })
}

fn fail(failure: &Failure, mut report: Report) -> Exit {
    let exit = failure.report();
    if let Exit::Code(code) = exit {
        report.failed(failure.reason());
        report.end("failed", code);
    }
    exit
}

async fn hold_and_run(
    run: &Run,
    watchdog: watch::Forked,
    report: &mut Report,
) -> Result<(&'static str, Ending), Failure> {
    let caught = signals::catch(&watchdog.mask).and_then(Signals::new);
    let mut signals = caught.map_err(unavailable("cannot catch signals"))?;
    let mut watch = Watch::new(watchdog).map_err(unavailable("cannot reach the watchdog"))?;
    let ended = acquire_and_run(run, &mut watch, &mut signals, report).await;
    watch.end().await;
    ended
}

async fn acquire_and_run(
    run: &Run,
    watch: &mut Watch,
    signals: &mut Signals,
    report: &mut Report,
) -> Result<(&'static str, Ending), Failure> {
    let prepared = prepare(run)?;
    let Prepared { client, request, holder, .. } = &prepared;
    let until = match (run.no_wait, run.wait) {
        (true, _) => Some(BootTime::now()),
        (false, wait) => wait.map(|wait| BootTime::now() + wait),
    };
    let acquired = tokio::select! {
        acquired = progress::acquire(client, request, until, run.quiet) => acquired,
        ending = interruption(watch, signals) => {
            // The lock may be ours already, though no answer has said so.
            tokio::select! {
                () = client.leave(request) => {}
                _ = signals.urgent() => {}
            }
            return ending.map(|ending| ("interrupted", ending));
        }
    };
    let grant = match acquired {
        Ok(grant) => grant,
        Err(ended) => return not_acquired(run, &prepared, ended, report),
    };
    report.acquired(&grant, holder);
    tell_of(run, &grant, holder);
    let lock = Lock::keep(client.clone(), request.clone(), grant);
    let over = held::run(run, &lock, watch, signals).await;
    let loss = lock.loss();
    report.lost(loss);
    if over.is_to_release {
        release(run, lock, signals, report).await;
    } else {
        lock.abandon();
    }
    Ok((if loss.is_some() || over.is_lost { "lost" } else { "ended" }, over.ending))
}

/// What ends the wait for the lock: a signal, or the end of the process that was to become the
/// command, which gets the terminal's signals, too.
async fn interruption(watch: &mut Watch, signals: &mut Signals) -> Result<Ending, Failure> {
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
                    return Err(unavailable("cannot start a process")(io::Error::from_raw_os_error(error)));
                }
                Some(_) => {}
                None => return Err(Failure::Unavailable("the watchdog was killed".to_owned())),
            },
        }
    }
}

/// Releases the lock, unless somebody is in a hurry: then its lease has to expire.
async fn release(run: &Run, lock: Lock, signals: &mut Signals, report: &mut Report) {
    signals.discard();
    let released = tokio::select! {
        released = lock.release() => released.map_err(|error| error.to_string()),
        number = signals.urgent() => Err(signals::name(number)),
    };
    match &released {
        Err(failure) => {
            say(&format!("the lock is not released, and stays held until its lease expires: {failure}"));
        }
        Ok(true) if run.verbose => say(&format!("released {}", run.lock.name)),
        Ok(_) => {}
    }
    report.released(released);
}

fn not_acquired(
    run: &Run,
    prepared: &Prepared,
    ended: progress::Ended,
    report: &mut Report,
) -> Result<(&'static str, Ending), Failure> {
    let name = &run.lock.name;
    match ended {
        progress::Ended::Failed(Error::NotAcquired(refusal)) => {
            if !run.quiet {
                say(&format!("{name} {refusal}"));
            }
            report.refused(&refusal);
            Ok(("not_acquired", Ending::Code(run.conflict_exit_code)))
        }
        progress::Ended::Failed(error) => Err(prepared.server.failure(&error)),
        progress::Ended::OwnLock => Err(progress::own_lock(name)),
    }
}

fn tell_of(run: &Run, grant: &Grant, holder: &str) {
    let name = &run.lock.name;
    if run.resume && grant.again {
        say(&format!("resumed: {holder} holds {name} already, fencing token {}", grant.fencing_token));
    } else if run.verbose {
        let (fence, lease) = (grant.fencing_token, grant.lease);
        say(&format!("acquired {name} as {holder}, fencing token {fence}, lease {lease:?}"));
    }
}
