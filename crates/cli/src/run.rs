//! `lockable run`: runs a command while it holds a lock.

mod cgroup;
mod command;
mod descendants;
mod environment;
mod holder;
mod inherited;
mod locked_command;
mod orders;
mod outcome;
mod terminal;
mod watchdog;
mod watchdog_handle;

use std::{ffi::OsString, io, time::Duration};

use clap::{ValueHint, builder::FalseyValueParser};

use lockable_client::{BootTime, Client, Error, Grant, LockGuard, LockRequest};
use nix::libc;

use self::{descendants::ExitStatus, outcome::RunReport, watchdog_handle::WatchdogHandle};
use super::{
    args::{GrantArgs, LockNameArgs, duration, owner},
    error::CliError,
    print_message, progress,
    server::{Server, ServerArgs},
    signals::{self, CaughtSignal, Signals},
    start_runtime,
};
use crate::exit::Exit;

/// `EX_TEMPFAIL` of sysexits.h: try again later.
const NOT_ACQUIRED: u8 = 75;
const USAGE: &str = "\
lockable run [OPTIONS] <NAME> -- <COMMAND>...
       lockable run [OPTIONS] <NAME> -c <LINE>";

/// Run a command while holding a lock
///
/// Waits for the lock, runs the command, renews the lock while the command runs, and releases it when the command ends. Only the command writes to standard output.
#[derive(Clone, Debug, clap::Args)]
#[command(override_usage = USAGE, after_help = "\
Exit codes:
  the command's exit code; 126 if the command cannot be executed, 127 if it does not exist
  75  the lock was not acquired (-E sets another code)
  74  the lock was lost, and the command was stopped
  69  the server is unreachable, or returned an error
   2  usage error: for example an invalid name, a lease outside the plan's range, or no server or token

If signal N ends the command or the wait, lockable dies of signal N (a shell reports 128+N).

The token is read from LOCKABLE_AUTH_TOKEN, from --token-file, or from lockable login. There is no option for the token itself, because other users can read the command line of a process. The command inherits these variables.

The command finds LOCKABLE_LOCK, LOCKABLE_FENCING_TOKEN, LOCKABLE_HOLDER and LOCKABLE_EXPIRES_AT in its environment.

Examples:
  lockable run deploy-prod -- ./deploy.sh
  lockable run deploy-prod -c './build | tee log'
  lockable run -w 10min --lease 2m --note \"build $BUILD\" deploy-prod -- make deploy
  lockable run -n nightly-report -- ./report || echo 'runs elsewhere'")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct RunArgs {
    #[command(flatten)]
    lock: LockNameArgs,

    /// A label for the lock's holder; lockable appends host, process ID and a random number, so that each run is a separate holder
    #[arg(long, env = "LOCKABLE_OWNER", value_parser = owner)]
    owner: Option<String>,

    /// Hold the lock as exactly this owner, and take over a grant of its earlier run. Concurrent runs of one owner do not exclude each other
    #[arg(long, requires = "owner")]
    resume: bool,

    #[command(flatten)]
    hold: GrantArgs,

    /// The command and its arguments, run without a shell
    #[arg(last = true, required_unless_present = "shell_line", value_name = "COMMAND",
        value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,

    /// Run this shell line with sh -c instead of a command
    #[arg(short = 'c', long = "command", value_name = "LINE", conflicts_with = "command",
        value_hint = ValueHint::CommandString)]
    shell_line: Option<OsString>,

    /// Do not wait for the lock
    #[arg(short, long, alias = "nonblock", alias = "nb")]
    no_wait: bool,

    /// How long to wait for the lock [default: no limit]
    #[arg(short, long, env = "LOCKABLE_WAIT", alias = "timeout", value_parser = duration, value_name = "DURATION")]
    wait: Option<Duration>,

    /// The exit code when the lock was not acquired
    #[arg(short = 'E', long, env = "LOCKABLE_CONFLICT_EXIT_CODE", default_value_t = NOT_ACQUIRED, value_name = "CODE")]
    conflict_exit_code: u8,

    /// Print only failures, not the progress of the wait
    #[arg(short, long, env = "LOCKABLE_QUIET", value_parser = FalseyValueParser::new())]
    quiet: bool,

    /// Print a message when the lock is acquired and when it is released
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,

    /// Print the outcome as the last line of standard error, in JSON
    #[arg(long)]
    json: bool,

    /// What to do with the command when the lock is, or may be, lost: send TERM, and KILL before the lease expires; send KILL at once; or nothing
    #[arg(long, env = "LOCKABLE_ON_LOST", value_enum, default_value_t = OnLost::Term)]
    on_lost: OnLost,

    /// Time between TERM and KILL: a command that still runs this long after SIGTERM to lockable gets KILL; on a loss TERM is sent this long before the lease expires, KILL when it expires; at most a third of the lease [default: 10s, or a quarter of the lease if that is less]
    #[arg(long, env = "LOCKABLE_KILL_AFTER", value_parser = duration, value_name = "DURATION")]
    kill_after: Option<Duration>,

    /// Do not end background processes of the command when it ends; they run on without the lock
    #[arg(long, env = "LOCKABLE_LEAVE_BACKGROUND", value_parser = FalseyValueParser::new())]
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

/// Runs the command. Dies of the signal that ended the command or the wait.
pub(super) fn main(run: &RunArgs) -> Exit {
    let mut run = run.clone();
    if let Some(line) = run.shell_line.take() {
        run.command = vec!["sh".into(), "-c".into(), line];
    }
    let mut report = RunReport::new(run.json, &run.lock.name);
    let (outcome, status) = match start_and_run(&run, &mut report) {
        Ok(result) => result,
        Err(failure) => return fail(&failure, report),
    };
    match status {
        ExitStatus::Code(code) => {
            report.end(outcome, code);
            Exit::Code(code)
        }
        ExitStatus::Signal(number) => {
            report.end(outcome, 128 + number as u8);
            Exit::Signal(number)
        }
    }
}

/// Returns the outcome for the report, and the exit status of the command or the wait.
fn start_and_run(run: &RunArgs, report: &mut RunReport) -> Result<(&'static str, ExitStatus), CliError> {
    // Fork before the runtime starts threads.
    let watchdog = watchdog_handle::start(run).map_err(unavailable("cannot start the watchdog"))?;
    let runtime = start_runtime()?;
    let result = runtime.block_on(hold_and_run(run, watchdog, report));
    // A DNS lookup may still run in another thread.
    runtime.shutdown_background();
    result
}

fn unavailable(what: &'static str) -> impl Fn(io::Error) -> CliError {
    move |error| CliError::Unavailable(format!("{what}: {error}"))
}

/// The settings of a run.
struct PreparedRun {
    server: Server,
    client: Client,
    request: LockRequest,
    holder: String,
}

fn prepare(run: &RunArgs) -> Result<PreparedRun, CliError> {
    let server = run.server.server()?;
    let client = server.client()?;
    let holder = match (&run.owner, run.resume) {
        (Some(owner), true) => owner.clone(),
        (label, _) => holder::unique(label.as_deref()),
    };
    let request = run.lock.request().and_then(|request| request.owner(&holder));
    let request = request.map_err(|error| CliError::Usage(error.to_string()))?;
    Ok(PreparedRun { server, client, request: run.hold.apply(request), holder })
}

fn fail(failure: &CliError, mut report: RunReport) -> Exit {
    let exit = failure.report();
    if let Exit::Code(code) = exit {
        report.failed(failure.reason());
        report.end("failed", code);
    }
    exit
}

async fn hold_and_run(
    run: &RunArgs,
    watchdog: watchdog_handle::ForkedWatchdog,
    report: &mut RunReport,
) -> Result<(&'static str, ExitStatus), CliError> {
    let caught = signals::catch(&watchdog.mask).and_then(Signals::new);
    let mut signals = caught.map_err(unavailable("cannot catch signals"))?;
    let mut watch = WatchdogHandle::new(watchdog).map_err(unavailable("cannot reach the watchdog"))?;
    let result = acquire_and_run(run, &mut watch, &mut signals, report).await;
    watch.end().await;
    result
}

async fn acquire_and_run(
    run: &RunArgs,
    watch: &mut WatchdogHandle,
    signals: &mut Signals,
    report: &mut RunReport,
) -> Result<(&'static str, ExitStatus), CliError> {
    let prepared = prepare(run)?;
    let PreparedRun { client, request, holder, .. } = &prepared;
    let until = match (run.no_wait, run.wait) {
        (true, _) => Some(BootTime::now()),
        (false, wait) => wait.map(|wait| BootTime::now() + wait),
    };
    let acquired = tokio::select! {
        acquired = progress::acquire(client, request, until, run.quiet) => acquired,
        status = interruption(watch, signals) => {
            // The lock may be granted although no answer has arrived.
            tokio::select! {
                () = client.cancel_wait(request) => {}
                _ = signals.urgent() => {}
            }
            return status.map(|status| ("interrupted", status));
        }
    };
    let grant = match acquired {
        Ok(grant) => grant,
        Err(result) => return not_acquired(run, &prepared, result, report),
    };
    report.acquired(&grant, holder);
    report_grant(run, &grant, holder);
    let lock = LockGuard::new(client.clone(), request.clone(), grant);
    let end = locked_command::run(run, &lock, watch, signals).await;
    let loss = lock.loss();
    report.lost(loss);
    if end.releases_lock {
        release(run, lock, signals, report).await;
    } else {
        lock.abandon();
    }
    Ok((if loss.is_some() || end.is_lost { "lost" } else { "ended" }, end.ending))
}

/// Waits for an event that ends the wait for the lock: a signal, or the end of the process that was
/// to become the command, which gets the terminal's signals, too.
async fn interruption(watch: &mut WatchdogHandle, signals: &mut Signals) -> Result<ExitStatus, CliError> {
    loop {
        tokio::select! {
            caught = signals.next() => match caught {
                CaughtSignal { number: libc::SIGCHLD, .. } => watch.handle_child_signal(),
                CaughtSignal { number, .. } if signals::is_stop(number) => signals::stop_by(number),
                caught if caught.is_ending() => return Ok(ExitStatus::Signal(caught.number)),
                _ => {}
            },
            report = watch.report() => match report {
                Some(orders::Report::Ended(status)) => return Ok(status),
                Some(orders::Report::NotStarted(error)) => {
                    return Err(unavailable("cannot start a process")(io::Error::from_raw_os_error(error)));
                }
                Some(_) => {}
                None => return Err(CliError::Unavailable("the watchdog was killed".to_owned())),
            },
        }
    }
}

/// Releases the lock. A second signal ends the attempt and leaves the lock to its lease.
async fn release(run: &RunArgs, lock: LockGuard, signals: &mut Signals, report: &mut RunReport) {
    signals.discard();
    let released = tokio::select! {
        released = lock.release() => released.map_err(|error| error.to_string()),
        number = signals.urgent() => Err(signals::name(number)),
    };
    match &released {
        Err(failure) => {
            print_message(&format!("cannot release the lock, which stays held until its lease expires: {failure}"));
        }
        Ok(true) if run.verbose => print_message(&format!("released {}", run.lock.name)),
        Ok(_) => {}
    }
    report.released(released);
}

fn not_acquired(
    run: &RunArgs,
    prepared: &PreparedRun,
    result: progress::AcquireError,
    report: &mut RunReport,
) -> Result<(&'static str, ExitStatus), CliError> {
    let name = &run.lock.name;
    match result {
        progress::AcquireError::Client(Error::NotAcquired(refusal)) => {
            if !run.quiet {
                print_message(&format!("{name} {refusal}"));
            }
            report.refused(&refusal);
            Ok(("not_acquired", ExitStatus::Code(run.conflict_exit_code)))
        }
        progress::AcquireError::Client(error) => Err(prepared.server.cli_error(&error)),
        progress::AcquireError::OwnLock => Err(progress::own_lock(name)),
    }
}

fn report_grant(run: &RunArgs, grant: &Grant, holder: &str) {
    let name = &run.lock.name;
    if run.resume && grant.again {
        print_message(&format!("resumed: {holder} holds {name} already, fencing token {}", grant.fencing_token));
    } else if run.verbose {
        let (fence, lease) = (grant.fencing_token, grant.lease);
        print_message(&format!("acquired {name} as {holder}, fencing token {fence}, lease {lease:?}"));
    }
}
