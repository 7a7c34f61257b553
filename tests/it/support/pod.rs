use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Certificate, Client, eventually, process::Process, redis::RedisServer};

/// A server, as a process of its own: `lockable serve`.
pub struct Pod {
    process: Process,
    variables: Vec<(String, String)>,
    scheme: &'static str,
    port: u16,
    stdout: Arc<Mutex<String>>,
    log: Arc<Mutex<String>>,
    _folder: tempfile::TempDir,
}

/// An account with its first token.
#[derive(Clone, Debug)]
pub struct Account {
    pub email: String,
    pub token: String,
}

pub struct Builder {
    variables: Vec<(String, String)>,
    scheme: &'static str,
    folder: tempfile::TempDir,
}

/// The program, with no setting from outside.
pub fn lockable(args: &[&str]) -> tokio::process::Command {
    command(env!("CARGO_BIN_EXE_lockable").into(), args)
}

/// The program of a server: this version, or, for `tests/mixed`, by turns this
/// and another.
fn server_program() -> OsString {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let is_other = STARTED.fetch_add(1, Ordering::Relaxed) % 2 == 1;
    std::env::var_os("TEST_OTHER_PROGRAM").filter(|_| is_other).unwrap_or(env!("CARGO_BIN_EXE_lockable").into())
}

fn command(program: OsString, args: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LOCKABLE_")) {
        command.env_remove(name);
    }
    // Nobody has logged in.
    command.env("XDG_CONFIG_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/nobody"));
    // Whatever it makes here goes the way of all that is built.
    command.args(args).stdin(Stdio::null()).current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

impl Pod {
    /// A server on embedded defaults.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    pub fn builder() -> Builder {
        let folder = tempfile::tempdir().unwrap();
        let database = format!("sqlite:{}", folder.path().join("lockable.db").display());
        let variables = vec![
            ("LOCKABLE_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("LOCKABLE_ADMIN_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("LOCKABLE_LOG_FORMAT".to_owned(), "json".to_owned()),
            // A machine that stands still for a moment is no outage.
            ("LOCKABLE_REDIS_TIMEOUT".to_owned(), "3s".to_owned()),
            ("LOCKABLE_DATABASE_URL".to_owned(), database),
        ];
        Builder { variables, scheme: "http", folder }
    }

    pub fn client(&self, token: &str) -> Client {
        Client::new(&self.origin(), Some(token))
    }

    pub fn client_without_token(&self) -> Client {
        Client::new(&self.origin(), None)
    }

    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority("127.0.0.1"))
    }

    pub fn authority(&self, host: &str) -> String {
        format!("{host}:{}", self.port)
    }

    /// A client of the admin listener.
    pub fn admin(&self) -> Client {
        Client::new(&format!("http://{}", self.admin_address()), None)
    }

    /// Where the admin listener is.
    pub fn admin_address(&self) -> String {
        let port = port_in(&self.log(), "listening for operators").expect("the pod has an admin listener");
        format!("127.0.0.1:{port}")
    }

    /// What it says of one series, if it has it yet.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.admin().get("/metrics").await.text;
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Waits until it has heard of all that was changed in the account database,
    /// and has forgotten for the last time what these changes made untrue.
    pub async fn follow_changes(&self) {
        const LOOKS: &str = "lockable_database_duration_seconds_count{operation=\"last_change\"}";
        let looks = async || self.metric(LOOKS).await.unwrap_or_default();
        let before = looks().await;
        // The first may have begun before the last change, and what the second has
        // found is forgotten by when the third is there.
        eventually(async || looks().await >= before + 3.0).await;
    }

    /// The token of the account that the first start made.
    pub fn first_token(&self) -> String {
        let text = self.first_account();
        let token = text.lines().map(str::trim).find(|line| uuid::Uuid::try_parse(line).is_ok());
        token.unwrap_or_else(|| panic!("the file has no token: {text}")).to_owned()
    }

    /// The text of the file that the log names at the first start.
    pub fn first_account(&self) -> String {
        let file = self.first_account_file().expect("the log names the file of the first account");
        std::fs::read_to_string(file).unwrap()
    }

    /// The file that the log names at the first start. It is written before the server listens.
    pub fn first_account_file(&self) -> Option<PathBuf> {
        let log = self.log();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut named = events.filter(|event| {
            event["fields"]["message"].as_str().is_some_and(|message| message.starts_with("made the first account"))
        });
        named.next().map(|event| event["fields"]["file"].as_str().unwrap().into())
    }

    /// What it has printed for the person at the terminal.
    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Makes an account on a plan.
    pub async fn account(&self, plan: &str) -> Account {
        static ACCOUNTS: AtomicU32 = AtomicU32::new(0);
        let email = format!("account-{}@example.com", ACCOUNTS.fetch_add(1, Ordering::Relaxed));
        let made = self.operator(&["account", "create", "--email", &email, "--plan", plan]).await;
        Account { email, token: made["token"].as_str().unwrap().to_owned() }
    }

    /// Runs an operator's command against the pod's database.
    pub async fn operator(&self, args: &[&str]) -> Value {
        let (code, stdout, stderr) = self.run(&[args, &["--json"]].concat()).await;
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// The address of its account database.
    pub fn database_url(&self) -> String {
        let set = self.variables.iter().rfind(|(name, _)| name == "LOCKABLE_DATABASE_URL");
        set.map(|(_, url)| url.clone()).unwrap_or_default()
    }

    /// Runs the program with the pod's settings: exit code, what it printed, and
    /// what it complained of.
    pub async fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let ran = lockable(args).envs(self.variables.clone()).output().await.unwrap();
        let [stdout, stderr] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (ran.status.code(), stdout, stderr)
    }

    /// Ends it without a chance to say anything.
    pub fn kill(&mut self) {
        self.process.child().kill().unwrap();
        // Until then its port is taken.
        self.process.child().wait().unwrap();
    }

    /// Lets it hang, as a network does that swallows everything.
    pub fn pause(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    pub fn resume(&mut self) {
        if !self.process.has_ended() {
            self.process.signal(libc::SIGCONT);
        }
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        self.process.signal(libc::SIGTERM);
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) -> Option<i32> {
        self.process.signal(libc::SIGTERM);
        eventually(async || self.process.has_ended()).await;
        self.process.child().wait().unwrap().code()
    }
}

impl Builder {
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    pub fn redis(self, redis: &RedisServer) -> Self {
        self.env("LOCKABLE_REDIS_URL", &redis.url())
    }

    pub fn database(self, url: &str) -> Self {
        self.env("LOCKABLE_DATABASE_URL", url)
    }

    pub fn tls(mut self, certificate: &Certificate) -> Self {
        self.scheme = "https";
        self.env("LOCKABLE_TLS_CERT", certificate.cert.to_str().unwrap())
            .env("LOCKABLE_TLS_KEY", certificate.key.to_str().unwrap())
    }

    /// Starts the server and waits until it listens.
    pub async fn start(self) -> Pod {
        tokio::task::spawn_blocking(|| self.start_here()).await.unwrap()
    }

    /// Starts the server, which is to refuse: its exit code and complaint.
    pub async fn expect_refusal(self) -> (Option<i32>, String) {
        let ran = lockable(&["serve"]).envs(self.variables).kill_on_drop(true).output();
        let ran = tokio::time::timeout(Duration::from_secs(30), ran).await.expect("it refuses to start").unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    }

    #[expect(clippy::disallowed_methods, reason = "it runs on a thread of its own, not on a worker")]
    fn start_here(self) -> Pod {
        let mut command: Command = command(server_program(), &["serve"]).into_std();
        command.envs(self.variables.clone()).current_dir(self.folder.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::start(command);
        let (stdout, log) = (Arc::default(), Arc::default());
        collect(process.child().stdout.take().unwrap(), &stdout);
        collect(process.child().stderr.take().unwrap(), &log);

        let start = Instant::now();
        let port = loop {
            if let Some(port) = port_in(&log.lock().unwrap(), "listening") {
                break port;
            }
            let is_lost = process.has_ended() || start.elapsed() > Duration::from_secs(30);
            assert!(!is_lost, "the server does not start: {}", log.lock().unwrap());
            thread::sleep(Duration::from_millis(5));
        };
        Pod { process, variables: self.variables, scheme: self.scheme, port, stdout, log, _folder: self.folder }
    }
}

/// Reads a stream to its end, line by line.
fn collect(stream: impl Read + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = into.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut text = into.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
}

/// Finds in the log on which port the server listens.
fn port_in(log: &str, message: &str) -> Option<u16> {
    let listening = log.lines().find(|line| line.contains(&format!("\"{message}\"")))?;
    let event: Value = serde_json::from_str(listening).ok()?;
    event["fields"]["address"].as_str()?.rsplit(':').next()?.parse().ok()
}
