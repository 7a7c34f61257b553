//! What no case may show: a command that goes on, a second holder, and leftovers.

use std::sync::LazyLock;

use nix::unistd::Pid;
use regex_lite::Regex;

use super::{
    super::{case::Event, processes, session::until_rarely},
    PATIENCE, Scenario,
};

impl Scenario<'_> {
    /// Checks that nothing goes on that had been running, though nobody has told it to finish.
    pub(super) async fn ended(&mut self) {
        let jobs = &self.jobs;
        let is_gone = || !processes::jobs(self.folder.path()).iter().any(|job| jobs.contains(job));
        if !self.locker.is_flock() && !until_rarely(PATIENCE, is_gone).await {
            self.faults.push("the command goes on".to_owned());
        }
    }

    pub(super) async fn lose(&mut self) {
        let Some(next) = &mut self.next else { return };
        match tokio::time::timeout(PATIENCE, next).await {
            Ok(held) => {
                self.held = Some(held.unwrap());
                self.next = None;
            }
            Err(_) => {
                let status = self.locker.status().await;
                self.faults.push(format!("the lock was not granted to the next holder: {status}"));
            }
        }
    }

    /// Checks what holds in every case.
    pub(super) async fn end(&mut self) {
        static NEXT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"next=(\w+)").unwrap());
        let screen = self.session.screen();
        self.outcome.next = NEXT.captures_iter(&screen).map(|found| found[1].to_owned()).collect();
        if self.locker.is_flock() {
            return;
        }
        if self.next.is_none() && self.held.is_none() {
            self.next = self.locker.next_holder();
        }
        self.lose().await;
        // A lock that is broken is free at once: its holder learns of it from the next heartbeat.
        if let Some((since, until)) = self.held.filter(|_| self.case.event != Event::Break) {
            let times = self.folder.times();
            let within = times.iter().filter(|time| (since..until).contains(time)).count();
            if within > 0 {
                self.faults.push(format!("the command wrote {within} times while the next holder had the lock"));
            }
        }
        self.look_for_leftovers().await;
    }

    /// Ends what is left. A process that is about to be another program shows no environment, so
    /// that nothing must be seen twice.
    pub(super) async fn end_processes(&self) {
        let mut quiet = 0;
        let is_quiet = until_rarely(PATIENCE, || {
            processes::kill_all(self.folder.path());
            quiet = if processes::marked(self.folder.path()).is_empty() { quiet + 1 } else { 0 };
            quiet > 1
        });
        assert!(is_quiet.await, "processes come again and again:\n{}", self.session.screen());
    }

    async fn look_for_leftovers(&mut self) {
        let leader = self.session.leader();
        let is_hung_up = self.case.event == Event::HangUp;
        let mut left = Vec::new();
        let is_clean = until_rarely(PATIENCE, || {
            let is_shell = |pid: Pid| !is_hung_up && self.case.has_prompt() && pid == leader;
            left = processes::marked(self.folder.path());
            left.retain(|process| !is_shell(process.pid));
            left.is_empty()
        })
        .await;
        if !is_clean {
            let programs: Vec<_> = left.iter().map(|process| process.program.as_str()).collect();
            self.faults.push(format!("left running: {}", programs.join(", ")));
        }
    }
}
