//! A session on a terminal of its own, or without one, in which a shell runs.

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

/// Nothing that is typed contains it as it stands here.
const PROMPT: &str = "=prompt= ";

/// How long what has to come may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(15);

/// How long to read from a terminal whose first process has ended, if others keep it open.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub struct Session {
    child: Child,
    terminal: Option<Terminal>,
    screen: Arc<Mutex<String>>,
    /// What is written where there is no terminal.
    output: Option<PathBuf>,
    has_prompt: bool,
    /// How many prompts have been shown when the line was typed.
    prompts: usize,
    status: Option<String>,
}

struct Terminal {
    master: Arc<PtyMaster>,
    reader: JoinHandle<()>,
}

/// What a session is started with.
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
        // Whoever starts the tests may ignore some of them, as shells do for what is in the background.
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

    /// Everything that was written, and the echo of what was typed.
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

    /// Waits until the screen shows a text that nobody has typed.
    pub async fn shows(&self, text: &str) {
        assert!(until(PATIENCE, || self.screen().contains(text)).await, "{text:?} is not shown:\n{}", self.screen());
    }

    /// Waits until the shell has started a line that leaves the prompt to us.
    pub async fn started_in_background(&mut self) {
        self.expect(self.prompts + 1).await;
    }

    /// Waits until the terminal belongs to somebody else than the shell, or did for a moment.
    pub async fn lent(&self) {
        if !self.has_prompt {
            return;
        }
        let Some(terminal) = &self.terminal else { return };
        let shell = self.leader();
        let belongs_to_shell = || tcgetpgrp(&*terminal.master).is_ok_and(|group| group == shell);
        let is_lent = || !belongs_to_shell() || self.shown_prompts() > self.prompts;
        assert!(until(PATIENCE, is_lent).await, "the shell keeps the terminal:\n{}", self.screen());
    }

    /// Waits until the shell shows its prompt, or has ended where it has none: the exit code
    /// that it tells, or nothing if that does not come about.
    pub async fn settle(&mut self, patience: Duration) -> Option<String> {
        if self.status.is_some() {
            return self.status.clone();
        }
        if !self.has_prompt {
            let mut ended = None;
            until(patience, || {
                ended = self.child.try_wait().unwrap();
                ended.is_some()
            })
            .await;
            // What it has written last may still be in the terminal, which others may keep open.
            let is_read = || self.terminal.as_ref().is_none_or(|terminal| terminal.reader.is_finished());
            until(LAST_WORDS, is_read).await;
            self.status = ended.map(|status| status.to_string());
            return self.status.clone();
        }
        let expected = self.prompts + 1;
        if !until(patience, || self.shown_prompts() >= expected).await {
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
        let settled = self.settle(PATIENCE).await;
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
        assert!(until(PATIENCE, || self.shown_prompts() >= prompts).await, "no prompt:\n{}", self.screen());
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

/// Reads until everybody has closed the other side.
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

/// Polls until it holds. Returns whether it does.
pub async fn until(patience: Duration, holds: impl FnMut() -> bool) -> bool {
    poll(patience, INTERVAL, holds).await
}

/// The same for what takes a look at all processes of the machine.
pub async fn until_rarely(patience: Duration, holds: impl FnMut() -> bool) -> bool {
    poll(patience, Duration::from_millis(100), holds).await
}

async fn poll(patience: Duration, interval: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > patience {
            return false;
        }
        tokio::time::sleep(interval).await;
    }
    true
}
