use std::{cell::RefCell, convert::Infallible, ops::ControlFlow, time::Duration};

use tokio::time::sleep;

use super::{enclosing::Enclosing, failure::Failure, say, screen::Screen};
use crate::client::{BootTime, Client, Error, Grant, LockRequest, Progress, Refusal, Status, clock, recovering};

/// How often a terminal shows for how long the command has waited.
const SECOND: Duration = Duration::from_secs(1);
/// How often the server is asked for the queue, for a terminal.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// When a log gets its second line; each further one comes after twice the time,
/// but at least as often as this.
const LINE_FIRST: Duration = Duration::from_secs(30);
const LINE_INTERVAL_MAX: Duration = Duration::from_secs(900);

/// Why a wait ends without a grant.
pub(super) enum Ended {
    Failed(Error),
    /// The lock is held by the `lockable run` that this command runs under.
    OwnLock,
}

/// What is wrong with waiting for a lock of an enclosing run.
pub(super) fn own_lock(name: &str) -> Failure {
    Failure::Usage(format!(
        "{name} is held by the lockable run that this command runs under; to wait for it would take for ever"
    ))
}

/// Acquires a lock like [`Client::acquire_until`], and shows on standard error the reason for
/// the wait, the position in the queue, the holder and the time: on a terminal in one line that
/// changes, in a log in a few. With `is_quiet` only failures are shown.
pub(super) async fn acquire(
    client: &Client,
    request: &LockRequest,
    until: Option<BootTime>,
    is_quiet: bool,
) -> Result<Grant, Ended> {
    let wait = Wait {
        client,
        request,
        begun: BootTime::now(),
        is_quiet,
        screen: Screen::new(),
        reason: RefCell::new(Reason::None),
        status: RefCell::new(None),
    };
    let enclosing = Enclosing::of_this_process();
    let mut is_own = false;
    let acquire = client.acquire_until(request, until, |progress| {
        if let Progress::InLine(refusal) = &progress
            && enclosing.has(client, request.name(), refusal)
        {
            is_own = true;
            return ControlFlow::Break(());
        }
        wait.note(&progress);
        ControlFlow::Continue(())
    });
    let acquired = tokio::select! {
        biased;
        acquired = acquire => acquired,
        never = wait.show() => match never {},
        never = wait.follow() => match never {},
    };
    acquired.map_err(|error| if is_own { Ended::OwnLock } else { Ended::Failed(error) })
}

struct Wait<'a> {
    client: &'a Client,
    request: &'a LockRequest,
    begun: BootTime,
    is_quiet: bool,
    screen: Screen,
    reason: RefCell<Reason>,
    status: RefCell<Option<Status>>,
}

/// Why the command waits.
enum Reason {
    /// It does not wait yet.
    None,
    Refused(Box<Refusal>),
    Failed {
        error: String,
        /// Whether any answer disproves it.
        is_unreachable: bool,
    },
    /// A server answers again, and the request is in its queue.
    Reached,
}

impl Wait<'_> {
    /// Keeps the reason, and shows a new one at once.
    fn note(&self, progress: &Progress<'_>) {
        let (reason, is_new) = match (progress, &*self.reason.borrow()) {
            (Progress::InLine(refusal), former) => {
                let is_new = match former {
                    Reason::None | Reason::Failed { .. } => true,
                    Reason::Reached => false,
                    Reason::Refused(former) => former.recovering_until.is_some() != refusal.recovering_until.is_some(),
                };
                (Reason::Refused(Box::new(Refusal::clone(refusal))), is_new)
            }
            (Progress::Trouble(error), former) => {
                let is_unreachable = matches!(error, Error::Unreachable { .. } | Error::UnknownHost { .. });
                let is_new = !matches!(former, Reason::Failed { .. });
                (Reason::Failed { error: error.to_string(), is_unreachable }, is_new)
            }
        };
        let is_failure = matches!(reason, Reason::Failed { .. });
        self.reason.replace(reason);
        match (self.is_quiet && !is_failure, !self.is_quiet && self.screen.is_ours()) {
            (false, true) => self.screen.draw(&self.brief()),
            (false, false) if is_new => say(&self.full()),
            (true, _) | (false, false) => {}
        }
    }

    /// Shows the reason again and again.
    async fn show(&self) -> Infallible {
        let mut next = LINE_FIRST;
        loop {
            sleep(SECOND).await;
            if self.is_quiet || matches!(*self.reason.borrow(), Reason::None) {
                continue;
            }
            if self.screen.is_ours() {
                self.screen.draw(&self.brief());
            } else if (self.begun + next).rest().is_zero() {
                next += next.min(LINE_INTERVAL_MAX);
                self.look().await;
                say(&self.full());
            }
        }
    }

    /// Asks for the queue while a terminal shows it.
    async fn follow(&self) -> Infallible {
        loop {
            sleep(SECOND).await;
            if !self.is_quiet && self.screen.is_ours() && !matches!(*self.reason.borrow(), Reason::None) {
                self.look().await;
                sleep(STATUS_INTERVAL).await;
            }
        }
    }

    async fn look(&self) {
        let status = self.client.status(self.request).await.ok();
        let is_over = status.is_some() && matches!(*self.reason.borrow(), Reason::Failed { is_unreachable: true, .. });
        if is_over {
            self.reason.replace(Reason::Reached);
        }
        self.status.replace(status);
    }

    /// The line for a log.
    fn full(&self) -> String {
        self.words(&|time| clock(time))
    }

    /// The line for a terminal, whose end may be cut.
    fn brief(&self) -> String {
        self.words(&|time| clock(time).split_once(' ').map_or_else(String::new, |(_, time)| time.to_owned()))
    }

    fn words(&self, shown: &dyn Fn(&str) -> String) -> String {
        let waited = match self.begun.elapsed().as_secs() {
            0 => format!("waiting for {}", self.request.name()),
            waited => format!("waiting for {} for {}", self.request.name(), in_time(waited)),
        };
        let (reason, status) = (self.reason.borrow(), self.status.borrow());
        let refusal = match &*reason {
            Reason::Failed { error, .. } => return format!("{waited}: {error}; trying again"),
            Reason::None => return waited,
            Reason::Refused(refusal) => Some(refusal),
            Reason::Reached => None,
        };
        // The status is newer, if there is one.
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
            format!(", held by {}{note} since {}", holder.name(), shown(&holder.acquired_at))
        });
        format!("{waited}{}{}", position.unwrap_or_default(), holder.unwrap_or_default())
    }
}

/// `1:05`, or `1:00:05` from an hour on.
fn in_time(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        hours => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}
