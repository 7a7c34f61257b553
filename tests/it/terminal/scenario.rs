//! Plays a case: takes its steps, and looks at what comes of them.

mod checks;

use std::{mem, sync::LazyLock, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use regex_lite::Regex;
use tokio::task::JoinHandle;

use super::{
    case::{Case, Event, Shape},
    folder::{self, Folder},
    locker::{Held, Locker, Other, Server},
    processes,
    session::{Session, Start, until, until_rarely},
    steps::{Outcome, Step, Target, steps},
};

/// How long what is expected may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the oracle is looked at to see that nothing happens.
const FLOCK_QUIET: Duration = Duration::from_secs(3);
/// How long `lockable run` is looked at, once the oracle has shown that nothing happens.
const QUIET: Duration = Duration::from_secs(1);

pub struct Seen {
    pub outcome: Outcome,
    /// What no case may show.
    pub faults: Vec<String>,
    pub screen: String,
}

struct Scenario<'a> {
    case: Case,
    locker: &'a Locker<'a>,
    /// What the oracle has shown.
    expected: Option<&'a Outcome>,
    folder: Folder,
    session: Session,
    pids: Vec<(Target, Pid)>,
    jobs: Vec<Pid>,
    other: Option<Other>,
    next: Option<JoinHandle<Held>>,
    held: Option<Held>,
    outcome: Outcome,
    faults: Vec<String>,
}

/// Plays a case with one of the wrappers.
pub async fn play(case: Case, server: &Server, locker: &Locker<'_>, expected: Option<&Outcome>) -> Seen {
    let folder = locker.folder(case, server);
    let other = if case.is_held() { None } else { Some(locker.occupy(&folder).await) };
    let session = Session::start(Start {
        words: &folder::words(case),
        folder: folder.path(),
        variables: &locker.variables(&folder),
        has_prompt: case.has_prompt(),
        has_terminal: case.shape != Shape::Cron,
    })
    .await;
    let mut scenario = Scenario {
        case,
        locker,
        expected,
        folder,
        session,
        pids: Vec::new(),
        jobs: Vec::new(),
        other,
        next: None,
        held: None,
        outcome: Outcome::default(),
        faults: Vec::new(),
    };
    let is_begun = scenario.begin().await;
    if is_begun {
        for step in steps(case) {
            scenario.take(step).await;
        }
        scenario.end().await;
    }
    scenario.end_processes().await;
    let (outcome, faults) = (mem::take(&mut scenario.outcome), mem::take(&mut scenario.faults));
    Seen { outcome, faults, screen: scenario.session.screen() }
}

impl Drop for Scenario<'_> {
    fn drop(&mut self) {
        processes::kill_all(self.folder.path());
        if let Some(next) = self.next.take() {
            next.abort();
        }
    }
}

impl Scenario<'_> {
    /// Has the wrapper hold the lock or wait for it, and have the terminal. Returns whether it does.
    async fn begin(&mut self) -> bool {
        if self.case.has_prompt() {
            self.session.type_line(folder::line(self.case.shape));
        }
        if self.case.shape == Shape::Background {
            self.session.started_in_background().await;
        }
        let is_ready = match &self.other {
            Some(_) => self.waits().await,
            None => until(PATIENCE, || !self.folder.times().is_empty()).await,
        };
        if !is_ready {
            self.faults.push("it does not begin".to_owned());
            return false;
        }
        if self.case.shape == Shape::Background {
            self.session.type_line("fg");
        }
        self.session.lent().await;
        self.joined().await;
        if self.case.is_held() && self.case.event != Event::Suspend {
            self.answer().await;
        }
        self.find().await;
        if self.case.event != Event::End {
            self.next = self.locker.next_holder();
            // Before the next round of a loop.
            let before = u64::from(!self.case.is_held());
            while self.locker.waiting().await.is_some_and(|waiting| waiting <= before)
                && self.next.as_ref().is_some_and(|next| !next.is_finished())
            {
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
        true
    }

    async fn waits(&self) -> bool {
        let start = std::time::Instant::now();
        while start.elapsed() < PATIENCE {
            if self.locker.is_waiting(&self.folder).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        false
    }

    /// Waits until the other side of a pipeline has started: it must be there when the event comes.
    async fn joined(&self) {
        let reader = match self.case.shape {
            Shape::Into => "cat",
            Shape::Pager => "pager",
            _ => return,
        };
        let has_joined = || processes::marked(self.folder.path()).iter().any(|process| process.program == reader);
        assert!(until_rarely(PATIENCE, has_joined).await, "there is no {reader}:\n{}", self.session.screen());
    }

    /// Types what the command asks for.
    async fn answer(&mut self) {
        static ANSWER: LazyLock<Regex> = LazyLock::new(|| Regex::new("got:(.*):").unwrap());
        if self.case.shape != Shape::Asking {
            return;
        }
        self.session.type_text("secret\n");
        until(Duration::from_secs(5), || ANSWER.is_match(&self.session.screen())).await;
        self.outcome.input = ANSWER.captures(&self.session.screen()).map(|found| found[1].to_owned());
    }

    /// Finds the processes that the steps are about, before the first of them ends.
    async fn find(&mut self) {
        let program = self.locker.program();
        let folder = self.folder.path();
        self.jobs = processes::jobs(folder);
        for step in steps(self.case) {
            let Step::Send(target, _) = step else { continue };
            if self.pids.iter().any(|(known, _)| *known == target) || self.is_missing(target) {
                continue;
            }
            let mut found = None;
            until_rarely(PATIENCE, || {
                found = match target {
                    Target::Wrapper => processes::wrapper(folder, program),
                    Target::Watchdog => processes::watchdog(folder, program),
                    Target::Command => processes::command(folder),
                };
                found.is_some()
            })
            .await;
            match found {
                Some(pid) => self.pids.push((target, pid)),
                None => self.faults.push(format!("there is no {target:?}")),
            }
        }
    }

    /// Whether the oracle has no such process, or none that does what the wrapper does. TERM to
    /// `lockable run` is passed on to the command, which may ignore it; `flock` dies of it.
    fn is_missing(&self, target: Target) -> bool {
        self.locker.is_flock() && (target == Target::Watchdog || self.case.is_ignored())
    }

    fn signal(&self, target: Target, signal: Signal) {
        if let Some((_, pid)) = self.pids.iter().find(|(known, _)| *known == target) {
            let _ = kill(*pid, signal);
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Type(text) => self.session.type_text(text),
            Step::Send(target, signal) => self.signal(target, signal),
            Step::HangUp => self.session.hang_up().await,
            Step::Break if self.locker.break_lock().await => {}
            Step::Break => self.faults.push("nobody had the lock that was to be broken".to_owned()),
            Step::Cut => self.locker.cut(),
            Step::Heal => self.locker.heal(),
            Step::Lose => self.lose().await,
            Step::Outlast => self.locker.outlast().await,
            Step::Free => {
                if let Some(other) = self.other.take() {
                    self.locker.free(other).await;
                }
            }
            Step::Fail(code) if self.locker.is_flock() => self.folder.finish(code),
            Step::Fail(_) => {}
            Step::Ended => self.ended().await,
            Step::Finish => self.folder.finish(0),
            Step::Settle => {
                let settled = self.session.settle(self.patience()).await;
                self.outcome.settled.push(settled);
            }
            Step::Resume => self.resume().await,
            Step::Write => self.write().await,
        }
    }

    fn patience(&self) -> Duration {
        let Some(expected) = self.expected else {
            let is_last = self.outcome.settled.len() + 1 == self.settles();
            return if is_last { PATIENCE } else { FLOCK_QUIET };
        };
        match expected.settled.get(self.outcome.settled.len()) {
            Some(None) => QUIET,
            _ => PATIENCE,
        }
    }

    fn settles(&self) -> usize {
        steps(self.case).iter().filter(|step| matches!(step, Step::Settle)).count()
    }

    /// Continues what is stopped, as a person would: with `fg` at a prompt. Some shells tell another
    /// `$?` than that of a stopped job, so that the processes decide.
    async fn resume(&mut self) {
        let is_at_prompt = self.case.has_prompt() && self.outcome.settled.last().is_some_and(Option::is_some);
        let mut stopped = processes::marked(self.folder.path());
        stopped.retain(|process| processes::is_stopped(process.pid));
        if is_at_prompt && !stopped.is_empty() {
            self.session.type_line("fg");
            self.session.lent().await;
            return;
        }
        // Loops of some shells go on, so that there is no prompt at which to continue the first round.
        for process in stopped {
            let _ = kill(process.pid, Signal::SIGCONT);
        }
    }

    async fn write(&mut self) {
        let before = self.folder.times().len();
        let writes = until(Duration::from_secs(5), || self.folder.times().len() > before + 2).await;
        self.outcome.writes.push(writes);
        if self.case.event == Event::Suspend {
            self.answer().await;
        }
    }
}
