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

/// A `lockable serve` process.
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

/// Returns the program with arguments, without the `LOCKABLE_` variables of the environment.
pub fn lockable(args: &[&str]) -> tokio::process::Command {
    command(env!("CARGO_BIN_EXE_lockable").into(), args)
}

/// Returns the program of a server: this version or, for `tests/mixed`, alternately this version
/// and another one.
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
    // No saved login.
    command.env("XDG_CONFIG_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/no-config"));
    // Files that the program creates land in cargo's target folder.
    command.args(args).stdin(Stdio::null()).current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

impl Pod {
    /// Starts a server with the embedded store and default settings.
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
            // Long enough that a short stall of the machine is no Redis outage.
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

    /// Returns a client of the admin listener.
    pub fn admin(&self) -> Client {
        Client::new(&format!("http://{}", self.admin_address()), None)
    }

    /// Returns the address of the admin listener.
    pub fn admin_address(&self) -> String {
        let port = port_in(&self.log(), "listening for operators").expect("the server has an admin listener");
        format!("127.0.0.1:{port}")
    }

    /// Returns the value of one metric series, if the server exports it yet.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.admin().get("/metrics").await.text;
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Waits until the server has applied all earlier changes of the account database to its
    /// caches.
    pub async fn wait_for_changes(&self) {
        const POLLS: &str = "lockable_database_duration_seconds_count{operation=\"last_change\"}";
        let polls = async || self.metric(POLLS).await.unwrap_or_default();
        let before = polls().await;
        // The first poll may have begun before the last change. The server has applied the result
        // of the second one when it starts the third.
        eventually(async || polls().await >= before + 3.0).await;
    }

    /// Returns the token of the first account, which the first start creates.
    pub fn first_token(&self) -> String {
        let text = self.first_account();
        let token = text.lines().map(str::trim).find(|line| uuid::Uuid::try_parse(line).is_ok());
        token.unwrap_or_else(|| panic!("the file has no token: {text}")).to_owned()
    }

    /// Returns the text of the first-account file.
    pub fn first_account(&self) -> String {
        let file = self.first_account_file().expect("the log names the file of the first account");
        std::fs::read_to_string(file).unwrap()
    }

    /// Returns the path of the first-account file from the log. The server writes the file before
    /// it listens.
    pub fn first_account_file(&self) -> Option<PathBuf> {
        let log = self.log();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut named = events.filter(|event| {
            event["fields"]["message"].as_str().is_some_and(|message| message.starts_with("created the first account"))
        });
        named.next().map(|event| event["fields"]["file"].as_str().unwrap().into())
    }

    /// Returns the standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Creates an account on a plan.
    pub async fn account(&self, plan: &str) -> Account {
        static ACCOUNTS: AtomicU32 = AtomicU32::new(0);
        let email = format!("account-{}@example.com", ACCOUNTS.fetch_add(1, Ordering::Relaxed));
        let made = self.operator(&["account", "create", "--email", &email, "--plan", plan]).await;
        Account { email, token: made["token"].as_str().unwrap().to_owned() }
    }

    /// Runs an operator command on the server's database and returns its JSON output.
    pub async fn operator(&self, args: &[&str]) -> Value {
        let (code, stdout, stderr) = self.run(&[args, &["--json"]].concat()).await;
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// Returns the URL of the account database.
    pub fn database_url(&self) -> String {
        let set = self.variables.iter().rfind(|(name, _)| name == "LOCKABLE_DATABASE_URL");
        set.map(|(_, url)| url.clone()).unwrap_or_default()
    }

    /// Runs the program with the server's settings. Returns exit code, standard output and standard
    /// error.
    pub async fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let ran = lockable(args).envs(self.variables.clone()).output().await.unwrap();
        let [stdout, stderr] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (ran.status.code(), stdout, stderr)
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) {
        self.process.child().kill().unwrap();
        // The port is free only after the process is reaped.
        self.process.child().wait().unwrap();
    }

    /// Stops the process with SIGSTOP, as a network does that drops all packets.
    pub fn pause(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    pub fn resume(&mut self) {
        if !self.process.has_ended() {
            self.process.signal(libc::SIGCONT);
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.process.signal(libc::SIGTERM);
    }

    /// Sends SIGTERM, waits for the exit, and returns the exit code.
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

    /// Starts a server that must refuse to start. Returns exit code and standard error.
    pub async fn expect_refusal(self) -> (Option<i32>, String) {
        let ran = lockable(&["serve"]).envs(self.variables).kill_on_drop(true).output();
        let ran =
            tokio::time::timeout(Duration::from_secs(30), ran).await.expect("the server refuses to start").unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    }

    #[expect(clippy::disallowed_methods, reason = "this runs on its own thread, not on a worker")]
    fn start_here(self) -> Pod {
        let mut command: Command = command(server_program(), &["serve"]).into_std();
        command.envs(self.variables.clone()).current_dir(self.folder.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::start(command);
        let (stdout, log) = (Arc::default(), Arc::default());
        copy_lines(process.child().stdout.take().unwrap(), &stdout);
        copy_lines(process.child().stderr.take().unwrap(), &log);

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

/// Copies a stream line by line until it ends.
fn copy_lines(stream: impl Read + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = into.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut text = into.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
}

/// Returns the port from the log event with this message.
fn port_in(log: &str, message: &str) -> Option<u16> {
    let listening = log.lines().find(|line| line.contains(&format!("\"{message}\"")))?;
    let event: Value = serde_json::from_str(listening).ok()?;
    event["fields"]["address"].as_str()?.rsplit(':').next()?.parse().ok()
}
