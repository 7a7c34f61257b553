//! `lockable run`: a command that runs while a lock is held.

mod command;
mod environment;
mod held;
mod holder;
mod outcome;
mod signals;
mod watchdog;

use std::{ffi::OsString, time::Duration};

use clap::{ValueHint, builder::FalseyValueParser};

pub use self::watchdog::{Watchdog, watchdog};
use self::{outcome::Report, signals::Signals};
use super::{
    args::{HoldArgs, NameArgs, duration, owner},
    failure::Failure,
    say,
    server::{Server, ServerArgs},
    waiting,
};
use crate::{
    client::{Client, Error, Grant, Lock, LockRequest, Moment},
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
  the command's own, 128+N when signal N ended it, 126 when it cannot be run, 127 when there is none
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

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnLost {
    Term,
    Kill,
    Ignore,
}

/// Runs it.
pub(super) async fn run(run: &Run) -> Exit {
    let mut run = run.clone();
    if let Some(line) = run.shell_line.take() {
        run.command = vec!["sh".into(), "-c".into(), line];
    }
    let report = Report::new(run.json, &run.lock.name);
    match prepare(&run) {
        Ok(prepared) => hold_and_run(&run, &prepared, report).await,
        Err(failure) => fail(&failure, report),
    }
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

async fn hold_and_run(run: &Run, prepared: &Prepared, mut report: Report) -> Exit {
    let Prepared { client, request, holder, .. } = prepared;
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(&Failure::Unavailable(format!("cannot listen to signals: {error}")), report),
    };
    let until = match (run.no_wait, run.wait) {
        (true, _) => Some(Moment::now()),
        (false, wait) => wait.map(|wait| Moment::now() + wait),
    };
    let acquired = tokio::select! {
        acquired = waiting::acquire(client, request, until, run.quiet) => acquired,
        signal = signals.ending() => {
            // The lock may be ours already, though no answer has said so.
            client.leave(request).await;
            report.end("interrupted", 128 + signal as u8);
            return Exit::Signal(signal);
        }
    };
    let grant = match acquired {
        Ok(grant) => grant,
        Err(ended) => return not_acquired(run, prepared, ended, report),
    };
    report.acquired(&grant, holder);
    tell_of(run, &grant, holder);
    let lock = Lock::keep(client.clone(), request.clone(), grant);
    let code = held::run(run, &lock, &mut signals).await;
    let loss = lock.loss();
    report.lost(loss);
    let released = lock.release().await.map_err(|error| error.to_string());
    match &released {
        Err(error) => say(&format!("the lock is not released, its lease will lapse: {error}")),
        Ok(true) if run.verbose => say(&format!("released {}", request.name())),
        Ok(_) => {}
    }
    report.released(released);
    report.end(if loss.is_some() { "lost" } else { "ended" }, code);
    Exit::Code(code)
}

fn not_acquired(run: &Run, prepared: &Prepared, ended: waiting::Ended, mut report: Report) -> Exit {
    let name = &run.lock.name;
    match ended {
        waiting::Ended::Failed(Error::NotAcquired(refusal)) => {
            if !run.quiet {
                say(&format!("{name} {refusal}"));
            }
            report.refused(&refusal);
            report.end("not_acquired", run.conflict_exit_code);
            Exit::Code(run.conflict_exit_code)
        }
        waiting::Ended::Failed(error) => fail(&prepared.server.failure(&error), report),
        waiting::Ended::OwnLock => fail(&waiting::own_lock(name), report),
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
