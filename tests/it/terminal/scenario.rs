//! Runs a case: takes its steps, and records the outcome.

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
    processes,
    session::{Session, Start, until, until_rarely},
    steps::{Outcome, Step, Target, steps},
    wrapper::{Other, Server, Tenure, Wrapper},
};

/// Limit for an expected event.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long the oracle is observed to show that nothing happens. On a busy machine a shell takes
/// seconds to show its prompt.
const FLOCK_QUIET: Duration = Duration::from_secs(5);
/// How long `lockable run` is observed after the oracle has shown that nothing happens.
const QUIET: Duration = Duration::from_secs(1);

pub struct Observed {
    pub outcome: Outcome,
    /// Failed checks that apply to every case.
    pub faults: Vec<String>,
    pub screen: String,
}

struct Scenario<'a> {
    case: Case,
    wrapper: &'a Wrapper<'a>,
    /// The oracle's outcome.
    expected: Option<&'a Outcome>,
    folder: Folder,
    session: Session,
    pids: Vec<(Target, Pid)>,
    jobs: Vec<Pid>,
    other: Option<Other>,
    next: Option<JoinHandle<Tenure>>,
    held: Option<Tenure>,
    outcome: Outcome,
    faults: Vec<String>,
}

/// Runs a case with one of the wrappers.
pub async fn run(case: Case, server: &Server, wrapper: &Wrapper<'_>, expected: Option<&Outcome>) -> Observed {
    let folder = wrapper.folder(case, server);
    let other = if case.is_held() { None } else { Some(wrapper.occupy(&folder).await) };
    let session = Session::start(Start {
        words: &folder::words(case),
        folder: folder.path(),
        variables: &wrapper.variables(&folder),
        has_prompt: case.has_prompt(),
        has_terminal: case.shape != Shape::Cron,
    })
    .await;
    let mut scenario = Scenario {
        case,
        wrapper,
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
    Observed { outcome, faults, screen: scenario.session.screen() }
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
    /// Starts the wrapper in the foreground until it holds the lock or waits for it. Returns whether it
    /// does.
    async fn begin(&mut self) -> bool {
        if self.case.has_prompt() {
            self.session.type_line(folder::line(self.case.shape));
        }
        if self.case.shape == Shape::Background {
            self.session.started_in_background().await;
        }
        let is_ready = match &self.other {
            Some(_) => self.waits().await,
            None => until(TIMEOUT, || !self.folder.times().is_empty()).await,
        };
        if !is_ready {
            self.faults.push("the wrapper does not start".to_owned());
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
            self.next = self.wrapper.next_holder();
            // Before the next round of a loop.
            let before = u64::from(!self.case.is_held());
            while self.wrapper.waiting().await.is_some_and(|waiting| waiting <= before)
                && self.next.as_ref().is_some_and(|next| !next.is_finished())
            {
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
        true
    }

    async fn waits(&self) -> bool {
        let start = std::time::Instant::now();
        while start.elapsed() < TIMEOUT {
            if self.wrapper.is_waiting(&self.folder).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        false
    }

    /// Waits until the other side of a pipeline has started: it must run when the event comes.
    async fn joined(&self) {
        let reader = match self.case.shape {
            Shape::Into => "cat",
            Shape::Pager => "pager",
            _ => return,
        };
        let has_joined = || processes::marked(self.folder.path()).iter().any(|process| process.program == reader);
        assert!(until_rarely(TIMEOUT, has_joined).await, "there is no {reader}:\n{}", self.session.screen());
    }

    /// Types the input that the command reads.
    async fn answer(&mut self) {
        static ANSWER: LazyLock<Regex> = LazyLock::new(|| Regex::new("got:(.*):").unwrap());
        if self.case.shape != Shape::Asking {
            return;
        }
        self.session.type_text("secret\n");
        until(TIMEOUT, || ANSWER.is_match(&self.session.screen())).await;
        self.outcome.input = ANSWER.captures(&self.session.screen()).map(|found| found[1].to_owned());
    }

    /// Finds the target processes of the steps, before the first of them ends.
    async fn find(&mut self) {
        let program = self.wrapper.program();
        let folder = self.folder.path();
        self.jobs = processes::jobs(folder);
        for step in steps(self.case) {
            let Step::Send(target, _) = step else { continue };
            if self.pids.iter().any(|(pid_target, _)| *pid_target == target) || self.is_missing(target) {
                continue;
            }
            let mut found = None;
            until_rarely(TIMEOUT, || {
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

    /// Whether the oracle has no equivalent process. `lockable run` forwards TERM to the command, and kills
    /// it if it ignores TERM; `flock` would die of it.
    fn is_missing(&self, target: Target) -> bool {
        self.wrapper.is_flock() && (target == Target::Watchdog || self.case.is_ignored())
    }

    fn signal(&self, target: Target, signal: Signal) {
        if let Some((_, pid)) = self.pids.iter().find(|(pid_target, _)| *pid_target == target) {
            let _ = kill(*pid, signal);
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Type(text) => self.session.type_text(text),
            Step::Send(target, signal) => self.signal(target, signal),
            Step::HangUp => self.session.hang_up().await,
            Step::Break if self.wrapper.break_lock().await => {}
            Step::Break => self.faults.push("the lock to break was not held".to_owned()),
            Step::Cut => self.wrapper.cut(),
            Step::Heal => self.wrapper.heal(),
            Step::Lose => self.lose().await,
            Step::Outlast => self.wrapper.outlast().await,
            Step::Free => {
                if let Some(other) = self.other.take() {
                    self.wrapper.free(other).await;
                }
            }
            Step::Fail(code) if self.wrapper.is_flock() => self.folder.finish(code),
            Step::Fail(_) => {}
            Step::Ended => self.ended().await,
            Step::Finish => self.folder.finish(0),
            Step::Settle => {
                let settled = self.session.settle(self.timeout()).await;
                self.outcome.settled.push(settled);
            }
            Step::Resume => self.resume().await,
            Step::Write => self.write().await,
        }
    }

    fn timeout(&self) -> Duration {
        let Some(expected) = self.expected else {
            let is_last = self.outcome.settled.len() + 1 == self.settles();
            return if is_last { TIMEOUT } else { FLOCK_QUIET };
        };
        match expected.settled.get(self.outcome.settled.len()) {
            Some(None) => QUIET,
            _ => TIMEOUT,
        }
    }

    fn settles(&self) -> usize {
        steps(self.case).iter().filter(|step| matches!(step, Step::Settle)).count()
    }

    /// Continues stopped processes as a user would: with `fg` at a prompt. Checks the processes, because
    /// some shells report another `$?` than that of a stopped job.
    async fn resume(&mut self) {
        let is_at_prompt = self.case.has_prompt() && self.outcome.settled.last().is_some_and(Option::is_some);
        let mut stopped = processes::marked(self.folder.path());
        stopped.retain(|process| processes::is_stopped(process.pid));
        if is_at_prompt && !stopped.is_empty() {
            self.session.type_line("fg");
            self.session.lent().await;
            return;
        }
        // Loops of some shells continue, so that there is no prompt to resume the first round.
        for process in stopped {
            let _ = kill(process.pid, Signal::SIGCONT);
        }
    }

    async fn write(&mut self) {
        let before = self.folder.times().len();
        let writes = until(TIMEOUT, || self.folder.times().len() > before + 2).await;
        self.outcome.writes.push(writes);
        if self.case.event == Event::Suspend {
            self.answer().await;
        }
    }
}
