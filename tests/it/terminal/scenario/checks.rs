//! Checks for every case: the command ends, there is no second holder, and no process remains.

use std::sync::LazyLock;

use nix::unistd::Pid;
use regex_lite::Regex;

use super::{
    super::{case::Event, processes, session::until_rarely},
    Scenario, TIMEOUT,
};

impl Scenario<'_> {
    /// Checks that the processes of the command have ended without [`Folder::finish`].
    ///
    /// [`Folder::finish`]: super::super::folder::Folder::finish
    pub(super) async fn ended(&mut self) {
        let jobs = &self.jobs;
        let is_gone = || !processes::jobs(self.folder.path()).iter().any(|job| jobs.contains(job));
        if !self.wrapper.is_flock() && !until_rarely(TIMEOUT, is_gone).await {
            self.faults.push("the command runs on".to_owned());
        }
    }

    pub(super) async fn lose(&mut self) {
        let Some(next) = &mut self.next else { return };
        match tokio::time::timeout(TIMEOUT, next).await {
            Ok(held) => {
                self.held = Some(held.unwrap());
                self.next = None;
            }
            Err(_) => {
                let status = self.wrapper.status().await;
                self.faults.push(format!("the lock was not granted to the next holder: {status}"));
            }
        }
    }

    /// Runs the checks at the end of a case.
    pub(super) async fn end(&mut self) {
        static NEXT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"next=(\w+)").unwrap());
        let screen = self.session.screen();
        self.outcome.next = NEXT.captures_iter(&screen).map(|found| found[1].to_owned()).collect();
        if self.wrapper.is_flock() {
            return;
        }
        if self.next.is_none() && self.held.is_none() {
            self.next = self.wrapper.next_holder();
        }
        self.lose().await;
        // A broken lock is free at once, before its holder's next heartbeat.
        if let Some((since, until)) = self.held.filter(|_| self.case.event != Event::Break) {
            let times = self.folder.times();
            let within = times.iter().filter(|time| (since..until).contains(time)).count();
            if within > 0 {
                self.faults.push(format!("the command wrote {within} times during the next holder's grant"));
            }
        }
        self.check_remaining_processes().await;
    }

    /// Ends the remaining processes. A process shows no environment during an exec, so two scans in a
    /// row must be empty.
    pub(super) async fn end_processes(&self) {
        let mut quiet = 0;
        let is_quiet = until_rarely(TIMEOUT, || {
            processes::kill_all(self.folder.path());
            quiet = if processes::marked(self.folder.path()).is_empty() { quiet + 1 } else { 0 };
            quiet > 1
        });
        assert!(is_quiet.await, "new processes keep starting:\n{}", self.session.screen());
    }

    async fn check_remaining_processes(&mut self) {
        let leader = self.session.leader();
        let is_hung_up = self.case.event == Event::HangUp;
        let mut left = Vec::new();
        let is_clean = until_rarely(TIMEOUT, || {
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
