use std::{cell::RefCell, convert::Infallible, ops::ControlFlow, time::Duration};

use lockable_client::{BootTime, Client, Error, Grant, LockRequest, Progress, Refusal, Status, clock, recovering};
use tokio::time::sleep;

use super::{enclosing::EnclosingRuns, error::CliError, print_message, status_line::StatusLine};

/// Interval between updates of the waiting time on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between requests for the queue, for a terminal.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// Time until the second progress line, if standard error is not a terminal. The interval doubles
/// with each line, up to the maximum.
const LOG_INTERVAL_MIN: Duration = Duration::from_secs(30);
const LOG_INTERVAL_MAX: Duration = Duration::from_secs(900);

/// Why a wait ends without a grant.
pub(super) enum AcquireError {
    Client(Error),
    /// The `lockable run` that this command runs under holds the lock.
    OwnLock,
}

/// The error for a wait for the lock of an enclosing run.
pub(super) fn own_lock(name: &str) -> CliError {
    CliError::Usage(format!(
        "{name} is held by the lockable run that this command runs under, so the wait would never \
         end; use another lock, or leave out the inner lockable run"
    ))
}

/// Acquires a lock like [`Client::acquire_until`]. Prints on standard error the reason for the
/// wait, the position in the queue, the holder and the waiting time: on a terminal as one line that
/// is updated, elsewhere as a few lines. With `is_quiet`, prints only failures.
pub(super) async fn acquire(
    client: &Client,
    request: &LockRequest,
    until: Option<BootTime>,
    is_quiet: bool,
) -> Result<Grant, AcquireError> {
    let display = WaitDisplay {
        client,
        request,
        begun: BootTime::now(),
        is_quiet,
        status_line: StatusLine::new(),
        reason: RefCell::new(WaitReason::None),
        status: RefCell::new(None),
    };
    let enclosing = EnclosingRuns::of_this_process();
    let mut is_own_lock = false;
    let acquire = client.acquire_until(request, until, |progress| {
        if let Progress::Queued(refusal) = &progress
            && enclosing.has(client, request.name(), refusal)
        {
            is_own_lock = true;
            return ControlFlow::Break(());
        }
        display.update(&progress);
        ControlFlow::Continue(())
    });
    let acquired = tokio::select! {
        biased;
        acquired = acquire => acquired,
        never = display.repeat() => match never {},
        never = display.poll_queue() => match never {},
    };
    acquired.map_err(|error| if is_own_lock { AcquireError::OwnLock } else { AcquireError::Client(error) })
}

struct WaitDisplay<'a> {
    client: &'a Client,
    request: &'a LockRequest,
    begun: BootTime,
    is_quiet: bool,
    status_line: StatusLine,
    reason: RefCell<WaitReason>,
    status: RefCell<Option<Status>>,
}

/// Why the command waits.
enum WaitReason {
    /// The command does not wait yet.
    None,
    Refused(Box<Refusal>),
    Failed {
        error: String,
        /// Whether any answer of the server ends this reason.
        is_unreachable: bool,
    },
    /// A server answers again, and the request is queued.
    Reached,
}

impl WaitDisplay<'_> {
    /// Stores the reason, and prints a new reason at once.
    fn update(&self, progress: &Progress<'_>) {
        let (reason, is_new) = match (progress, &*self.reason.borrow()) {
            (Progress::Queued(refusal), previous) => {
                let is_new = match previous {
                    WaitReason::None | WaitReason::Failed { .. } => true,
                    WaitReason::Reached => false,
                    WaitReason::Refused(previous) => {
                        previous.recovering_until.is_some() != refusal.recovering_until.is_some()
                    }
                };
                (WaitReason::Refused(Box::new(Refusal::clone(refusal))), is_new)
            }
            (Progress::RequestFailed(error), previous) => {
                let is_unreachable = matches!(error, Error::Unreachable { .. } | Error::UnknownHost { .. });
                let is_new = !matches!(previous, WaitReason::Failed { .. });
                (WaitReason::Failed { error: error.to_string(), is_unreachable }, is_new)
            }
        };
        let is_failure = matches!(reason, WaitReason::Failed { .. });
        self.reason.replace(reason);
        match (self.is_quiet && !is_failure, !self.is_quiet && self.status_line.is_in_foreground()) {
            (false, true) => self.status_line.draw(&self.terminal_line()),
            (false, false) if is_new => print_message(&self.log_line()),
            (true, _) | (false, false) => {}
        }
    }

    /// Prints the reason periodically.
    async fn repeat(&self) -> Infallible {
        let mut next = LOG_INTERVAL_MIN;
        loop {
            sleep(TERMINAL_INTERVAL).await;
            if self.is_quiet || matches!(*self.reason.borrow(), WaitReason::None) {
                continue;
            }
            if self.status_line.is_in_foreground() {
                self.status_line.draw(&self.terminal_line());
            } else if (self.begun + next).remaining().is_zero() {
                next += next.min(LOG_INTERVAL_MAX);
                self.refresh_status().await;
                print_message(&self.log_line());
            }
        }
    }

    /// Requests the queue periodically while a terminal shows it.
    async fn poll_queue(&self) -> Infallible {
        loop {
            sleep(TERMINAL_INTERVAL).await;
            if !self.is_quiet
                && self.status_line.is_in_foreground()
                && !matches!(*self.reason.borrow(), WaitReason::None)
            {
                self.refresh_status().await;
                sleep(STATUS_INTERVAL).await;
            }
        }
    }

    async fn refresh_status(&self) {
        let status = self.client.status(self.request).await.ok();
        let is_over =
            status.is_some() && matches!(*self.reason.borrow(), WaitReason::Failed { is_unreachable: true, .. });
        if is_over {
            self.reason.replace(WaitReason::Reached);
        }
        self.status.replace(status);
    }

    /// The line for a log.
    fn log_line(&self) -> String {
        self.line(&|time| clock(time))
    }

    /// The line for a terminal, which may cut its end.
    fn terminal_line(&self) -> String {
        self.line(&|time| clock(time).split_once(' ').map_or_else(String::new, |(_, time)| time.to_owned()))
    }

    fn line(&self, format_time: &dyn Fn(&str) -> String) -> String {
        let waited = match self.begun.elapsed().as_secs() {
            0 => format!("waiting for {}", self.request.name()),
            waited => format!("waiting for {} for {}", self.request.name(), clock_duration(waited)),
        };
        let (reason, status) = (self.reason.borrow(), self.status.borrow());
        let refusal = match &*reason {
            WaitReason::Failed { error, .. } => return format!("{waited}: {error}; retrying"),
            WaitReason::None => return waited,
            WaitReason::Refused(refusal) => Some(refusal),
            WaitReason::Reached => None,
        };
        // The status is newer than the refusal.
        let (until, holder) = match &*status {
            Some(status) => (&status.recovering_until, &status.holder),
            None => refusal.map_or((&None, &None), |refusal| (&refusal.recovering_until, &refusal.holder)),
        };
        if let Some(until) = until {
            return format!("{waited}, which {}", recovering(until));
        }
        let position = status.as_ref().and_then(|status| Some((status.position?, status.waiting)));
        let position = position.map(|(position, waiting)| format!(", position {position} of {waiting}"));
        let holder = holder.as_ref().map(|holder| {
            let note = if holder.note.is_empty() { String::new() } else { format!(" ({})", holder.note) };
            format!(", held by {}{note} since {}", holder.name(), format_time(&holder.acquired_at))
        });
        format!("{waited}{}{}", position.unwrap_or_default(), holder.unwrap_or_default())
    }
}

/// `1:05`, or `1:00:05` from an hour on.
fn clock_duration(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        hours => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}
