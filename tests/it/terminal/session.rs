//! A session with a shell, on a new terminal or without one.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    fcntl::OFlag,
    pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt},
    unistd::{Pid, tcgetpgrp},
};
use tokio::task::JoinHandle;

/// No typed line contains this text.
const PROMPT: &str = "=prompt= ";

/// Limit for an expected event on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Polling interval.
const INTERVAL: Duration = Duration::from_millis(15);

/// How long to read from a terminal after the end of its first process, if others keep it open.
const DRAIN_TIME: Duration = Duration::from_secs(5);

pub struct Session {
    child: Child,
    terminal: Option<Terminal>,
    screen: Arc<Mutex<String>>,
    /// The file with the output of a session without a terminal.
    output: Option<PathBuf>,
    has_prompt: bool,
    /// The number of prompts on the screen when the line was typed.
    prompts: usize,
    status: Option<String>,
}

struct Terminal {
    master: Arc<PtyMaster>,
    reader: JoinHandle<()>,
}

/// The parameters of a session.
pub struct Start<'a> {
    pub words: &'a [&'a str],
    pub folder: &'a Path,
    pub variables: &'a [(String, String)],
    pub has_prompt: bool,
    pub has_terminal: bool,
}

impl Session {
    pub async fn start(start: Start<'_>) -> Self {
        let mut command = Command::new("env");
        // The test runner may ignore some signals, as shells do for background processes.
        command.args(["--default-signal", "setsid"]);
        let screen = Arc::new(Mutex::new(String::new()));
        let mut terminal = None;
        let mut output = None;
        if start.has_terminal {
            let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
            grantpt(&master).unwrap();
            unlockpt(&master).unwrap();
            let path = ptsname_r(&master).unwrap();
            let slave = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(path);
            let slave = slave.unwrap();
            command.arg("--ctty");
            command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
            terminal = Some(master);
        } else {
            let path = start.folder.join("output");
            let file = File::create(&path).unwrap();
            command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
            output = Some(path);
        }
        command.args(start.words).current_dir(start.folder).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", start.folder).env("TERM", "dumb");
        command.env("PS1", PROMPT).envs(start.variables.iter().cloned());
        let child = command.spawn().unwrap();
        drop(command);
        let terminal = terminal.map(|master| {
            let master = Arc::new(master);
            let reader = tokio::spawn(read(master.clone(), screen.clone()));
            Terminal { master, reader }
        });
        let session = Self { child, terminal, screen, output, has_prompt: start.has_prompt, prompts: 0, status: None };
        if session.has_prompt {
            session.expect(1).await;
        }
        session
    }

    /// All output, including the echo of typed text.
    pub fn screen(&self) -> String {
        match &self.output {
            Some(path) => std::fs::read_to_string(path).unwrap(),
            None => self.screen.lock().unwrap().clone(),
        }
    }

    pub fn leader(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    pub fn type_text(&mut self, text: &str) {
        let Some(terminal) = &self.terminal else { return };
        (&*terminal.master).write_all(text.as_bytes()).unwrap();
    }

    /// Types a line at the prompt.
    pub fn type_line(&mut self, line: &str) {
        self.prompts = self.shown_prompts();
        self.status = None;
        self.type_text(&format!("{line}\n"));
    }

    /// Waits until the screen shows a text that was not typed.
    pub async fn shows(&self, text: &str) {
        assert!(until(TIMEOUT, || self.screen().contains(text)).await, "{text:?} is not shown:\n{}", self.screen());
    }

    /// Waits until the shell has started a background job and shows its prompt.
    pub async fn started_in_background(&mut self) {
        self.expect(self.prompts + 1).await;
    }

    /// Waits until a job other than the shell is, or was, in the foreground.
    pub async fn lent(&self) {
        if !self.has_prompt {
            return;
        }
        let Some(terminal) = &self.terminal else { return };
        let shell = self.leader();
        let belongs_to_shell = || tcgetpgrp(&*terminal.master).is_ok_and(|group| group == shell);
        let is_lent = || !belongs_to_shell() || self.shown_prompts() > self.prompts;
        assert!(until(TIMEOUT, is_lent).await, "the shell stays in the foreground:\n{}", self.screen());
    }

    /// Waits until the shell shows its prompt, or until the end of a shell without a prompt. Returns the
    /// exit code that it reports, or `None` after `timeout`.
    pub async fn settle(&mut self, timeout: Duration) -> Option<String> {
        if self.status.is_some() {
            return self.status.clone();
        }
        if !self.has_prompt {
            let mut ended = None;
            until(timeout, || {
                ended = self.child.try_wait().unwrap();
                ended.is_some()
            })
            .await;
            // The last output may still be in the terminal, which other processes may keep open.
            let is_read = || self.terminal.as_ref().is_none_or(|terminal| terminal.reader.is_finished());
            until(DRAIN_TIME, is_read).await;
            self.status = ended.map(|status| status.to_string());
            return self.status.clone();
        }
        let expected = self.prompts + 1;
        if !until(timeout, || self.shown_prompts() >= expected).await {
            return None;
        }
        self.type_line("echo \"status=$?\"");
        self.expect(self.prompts + 1).await;
        let screen = self.screen();
        let line = screen.rsplit("status=").find_map(|text| text.lines().next()?.trim().parse::<u8>().ok());
        self.status = Some(line.unwrap_or_else(|| panic!("no status:\n{screen}")).to_string());
        self.status.clone()
    }

    /// Waits for the prompt, and checks the exit code.
    pub async fn settled(&mut self, status: &str) {
        let settled = self.settle(TIMEOUT).await;
        assert_eq!(settled.as_deref(), Some(status), "{}", self.screen());
    }

    /// Closes the terminal.
    pub async fn hang_up(&mut self) {
        if let Some(terminal) = self.terminal.take() {
            terminal.reader.abort();
            let _ = terminal.reader.await;
        }
    }

    fn shown_prompts(&self) -> usize {
        self.screen.lock().unwrap().matches(PROMPT).count()
    }

    async fn expect(&self, prompts: usize) {
        assert!(until(TIMEOUT, || self.shown_prompts() >= prompts).await, "no prompt:\n{}", self.screen());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            terminal.reader.abort();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads until all processes have closed the other side.
async fn read(master: Arc<PtyMaster>, screen: Arc<Mutex<String>>) {
    let mut bytes = [0; 4096];
    loop {
        match (&*master).read(&mut bytes) {
            Ok(read) if read > 0 => screen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::time::sleep(INTERVAL).await,
            _ => return,
        }
    }
}

/// Polls until the condition holds. Returns whether it does.
pub async fn until(timeout: Duration, holds: impl FnMut() -> bool) -> bool {
    poll(timeout, INTERVAL, holds).await
}

/// Like [`until`], with a longer interval for conditions that scan all processes.
pub async fn until_rarely(timeout: Duration, holds: impl FnMut() -> bool) -> bool {
    poll(timeout, Duration::from_millis(100), holds).await
}

async fn poll(timeout: Duration, interval: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > timeout {
            return false;
        }
        tokio::time::sleep(interval).await;
    }
    true
}
