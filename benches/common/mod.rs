//! Shared code of the benchmarks: servers that they start themselves, a cheap client, and figures.

#![allow(
    dead_code,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "interactive programs that panic on errors; each uses a part of this module"
)]

pub mod bare;

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Redis and servers. All processes end when this value is dropped.
pub struct Servers {
    /// None with the embedded store.
    pub redis: Option<Child>,
    pub pods: Vec<Child>,
    pub addresses: Vec<String>,
    pub token: String,
    database: String,
    _folder: tempfile::TempDir,
}

impl Servers {
    /// Starts Redis and servers.
    pub fn start(pods: usize, variables: &[(&str, &str)]) -> Self {
        Self::start_under(&[], pods, variables)
    }

    /// Starts Redis, and servers under a profiler.
    pub fn start_under(under: &[&str], pods: usize, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let redis_port = free_port();
        let redis = start_redis(redis_port, folder.path());
        let redis_url = format!("redis://127.0.0.1:{redis_port}");
        let variables = [&[("LOCKABLE_REDIS_URL", &*redis_url)], variables].concat();
        Self::start_in(under, folder, Some(redis), pods, &variables)
    }

    /// Starts one server with the embedded store.
    pub fn start_embedded() -> Self {
        Self::start_in(&[], tempfile::tempdir().unwrap(), None, 1, &[])
    }

    fn start_in(
        under: &[&str],
        folder: tempfile::TempDir,
        redis: Option<Child>,
        pods: usize,
        variables: &[(&str, &str)],
    ) -> Self {
        let database = format!("sqlite:{}", folder.path().join("accounts.db").display());
        let home = folder.path().to_owned();
        let program = env!("CARGO_BIN_EXE_lockable");
        let run = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).current_dir(&home);
            command.env("LOCKABLE_DATABASE_URL", &database).env("LOCKABLE_LISTEN", "127.0.0.1:0");
            // As in production: metrics are on, and requests are not logged.
            command.env("LOCKABLE_ADMIN_LISTEN", "127.0.0.1:0");
            command.env("LOCKABLE_LOG", "warn,lockable::server=info").envs(variables.iter().copied());
            command
        };
        let lockable = |args: &[&str]| run(&[&[program], args].concat());
        assert!(lockable(&["migrate"]).stdout(Stdio::null()).status().unwrap().success());
        let rate = ["--rate", "1000000", "--burst", "1000000"];
        let plan = [&["plan", "set", "business", "--locks", "200000", "--waiters", "100000"], &rate[..]].concat();
        assert!(lockable(&plan).stdout(Stdio::null()).status().unwrap().success());
        let mut servers = Self {
            redis,
            pods: Vec::new(),
            addresses: Vec::new(),
            token: String::new(),
            database: database.clone(),
            _folder: folder,
        };
        servers.token = servers.account("bench@example.com");
        for _ in 0..pods {
            let mut pod = run(&[under, &[program, "serve"]].concat())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            servers.addresses.push(address_in(pod.stderr.take().unwrap()));
            servers.pods.push(pod);
        }
        servers
    }
}

impl Servers {
    /// Creates an account and returns its token.
    pub fn account(&self, email: &str) -> String {
        let mut create = Command::new(env!("CARGO_BIN_EXE_lockable"));
        create.args(["account", "create", "--email", email, "--plan", "business", "--json"]);
        let made = create.env("LOCKABLE_DATABASE_URL", &self.database).output().unwrap();
        let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        made["token"].as_str().unwrap().to_owned()
    }

    /// Creates a link that sets the password of an account.
    pub fn password_link(&self, email: &str) -> String {
        let mut reset = Command::new(env!("CARGO_BIN_EXE_lockable"));
        reset.args(["account", "reset-password", email, "--json"]);
        let made = reset.env("LOCKABLE_DATABASE_URL", &self.database).output().unwrap();
        let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        made["link"].as_str().unwrap().to_owned()
    }

    /// Runs an operator command.
    pub fn operator(&self, args: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockable"));
        command.args(args).env("LOCKABLE_DATABASE_URL", &self.database).stdout(Stdio::null());
        assert!(command.status().unwrap().success(), "{args:?}");
    }

    /// Sends SIGTERM to the servers and waits until they exit.
    pub fn stop(&mut self) {
        for pod in &mut self.pods {
            assert!(Command::new("kill").arg(pod.id().to_string()).status().unwrap().success());
            pod.wait().unwrap();
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in self.pods.iter_mut().chain(self.redis.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts Redis without persistence, because the benchmarks do not measure disks.
pub fn start_redis(port: u16, folder: &Path) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--save", "", "--maxclients", "20000"]);
    command.current_dir(folder).stdout(Stdio::null()).spawn().expect("redis-server is installed")
}

/// Waits until a server listens at this address.
pub fn await_port(address: &str) {
    let begin = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(10), "no server listens at {address}");
        sleep(Duration::from_millis(10));
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Reads a server's log until it contains the listening address, and drains the rest.
pub fn address_in(log: impl std::io::Read + Send + 'static) -> String {
    let mut lines = BufReader::new(log).lines();
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < Duration::from_secs(60), "the server does not start");
        let Some(Ok(line)) = lines.next() else {
            sleep(Duration::from_millis(10));
            continue;
        };
        if line.contains("listening") && !line.contains("for operators") {
            std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
            let address = line.split("127.0.0.1:").nth(1).unwrap();
            let port: String = address.chars().take_while(char::is_ascii_digit).collect();
            return format!("127.0.0.1:{port}");
        }
    }
}

/// A connection that sends one request after another.
pub struct Connection {
    stream: TcpStream,
    token: String,
}

impl Connection {
    pub async fn open(address: &str, token: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, token: token.to_owned() }
    }

    /// Sends a request with another token and returns the response body.
    pub async fn get_as(&mut self, token: &str, path: &str) -> serde_json::Value {
        if self.token != token {
            self.token = token.to_owned();
        }
        self.get(path).await
    }

    /// Sends a request and returns the response body.
    pub async fn get(&mut self, path: &str) -> serde_json::Value {
        self.send(path).await;
        self.receive().await
    }

    pub async fn send(&mut self, path: &str) {
        let authorization = STANDARD.encode(format!("{}:", self.token));
        let head = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic {authorization}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await.unwrap();
    }

    pub async fn receive(&mut self) -> serde_json::Value {
        let mut answer = Vec::with_capacity(1024);
        loop {
            let count = self.stream.read_buf(&mut answer).await.unwrap();
            assert!(count > 0, "the server closed the connection");
            let text = std::str::from_utf8(&answer).unwrap();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if body.len() == length.parse::<usize>().unwrap() {
                    return serde_json::from_str(body).unwrap();
                }
            }
        }
    }
}

/// Formats the median, the 99th percentile and the maximum, in microseconds.
pub fn figures(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_micros();
    format!("median {} µs, p99 {} µs, longest {} µs, of {}", at(0.5), at(0.99), at(1.0), times.len())
}

/// Returns the resident memory of a process, in KiB (`VmRSS` in proc(5)).
pub fn memory_kib(process: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Returns the processor time of a process (fields 14 and 15 of /proc/pid/stat, in ticks of 10 ms).
pub fn cpu(process: &Child) -> Duration {
    cpu_of(process.id())
}

/// Returns the processor time of a process by its id.
pub fn cpu_of(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = [11, 12].map(|at: usize| fields[at].parse::<u64>().unwrap()).iter().sum();
    Duration::from_millis(ticks * 10)
}
