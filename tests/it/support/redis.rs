use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::process::{Process, free_port};

/// A redis-server that belongs to one test.
pub struct RedisServer {
    process: Option<Process>,
    builder: Builder,
    port: u16,
    folder: tempfile::TempDir,
}

#[derive(Clone, Default)]
pub struct Builder {
    args: Vec<String>,
    password: String,
    has_fake_clock: bool,
}

impl RedisServer {
    pub fn start() -> Self {
        Builder::default().start()
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server with SIGKILL.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Restarts the server with its files.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    /// Restarts the server without its files.
    pub fn restart_empty(&mut self) {
        self.stop();
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
        self.launch();
    }

    /// Restarts the server without the last bytes of its append-only file, as after a power loss.
    pub fn restart_without_tail(&mut self, bytes: u64) {
        self.stop();
        let folder = std::fs::read_dir(self.folder.path().join("appendonlydir")).unwrap().flatten();
        let newest = folder.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with("incr.aof"));
        let file = File::options().write(true).open(newest.max().expect("the server has an append-only file")).unwrap();
        file.set_len(file.metadata().unwrap().len().saturating_sub(bytes)).unwrap();
        self.launch();
    }

    pub fn pause(&self) {
        self.process.as_ref().unwrap().signal(libc::SIGSTOP);
    }

    pub fn resume(&self) {
        self.process.as_ref().unwrap().signal(libc::SIGCONT);
    }

    /// Runs a command with redis-cli and returns its output.
    pub fn cli(&self, args: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        if !self.builder.password.is_empty() {
            command.env("REDISCLI_AUTH", &self.builder.password);
        }
        let ran = command.args(["-p", &self.port.to_string()]).args(args).output().unwrap();
        String::from_utf8(ran.stdout).unwrap()
    }

    fn launch(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--dir"]);
        command.arg(self.folder.path()).args(&self.builder.args).stdout(Stdio::null());
        if self.builder.has_fake_clock {
            command.envs(FakeClock::variables(self.folder.path()));
        }
        self.process = Some(Process::start(command));
    }

    fn is_up(&self) -> bool {
        // A server with a password, and a replica, are up, too.
        let answer = self.cli(&["PING"]);
        answer.contains("PONG") || answer.contains("NOAUTH")
    }
}

impl Builder {
    /// Adds command-line arguments of redis-server.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Sets the password for clients and for replication.
    pub fn password(mut self, password: &str) -> Self {
        self.password = password.into();
        self.args(&["--requirepass", password, "--masterauth", password])
    }

    pub fn replica_of(self, master: &RedisServer) -> Self {
        self.args(&["--replicaof", "127.0.0.1", &master.port.to_string()])
    }

    /// Starts the server with a fake clock, in microseconds since 1970. The clock stands still
    /// until a test moves it. A value before the year 2000 is an offset instead: the clock runs
    /// ahead of the real one by that much.
    pub fn start_with_clock(mut self, now_us: u64) -> (RedisServer, FakeClock) {
        self.has_fake_clock = true;
        let folder = tempfile::tempdir().unwrap();
        let clock = FakeClock::new(folder.path(), now_us);
        (self.start_in(folder), clock)
    }

    pub fn start(self) -> RedisServer {
        self.start_in(tempfile::tempdir().unwrap())
    }

    #[expect(clippy::disallowed_methods, reason = "this runs on its own thread, not on a worker")]
    fn start_in(self, folder: tempfile::TempDir) -> RedisServer {
        let mut server = RedisServer { process: None, builder: self, port: 0, folder };
        let start = Instant::now();
        loop {
            // Another process may take the port first. Then the server exits, and the next attempt
            // uses another port.
            server.port = free_port();
            server.launch();
            while !server.process.as_mut().unwrap().has_ended() {
                if server.is_up() {
                    return server;
                }
                assert!(start.elapsed() < Duration::from_secs(20), "redis-server does not answer");
                thread::sleep(Duration::from_millis(10));
            }
            assert!(start.elapsed() < Duration::from_secs(20), "redis-server does not start");
        }
    }
}

/// The system time of a process that was started with these variables.
pub struct FakeClock {
    file: File,
    now_us: AtomicU64,
}

impl FakeClock {
    /// Compiles the preload library into a folder and creates the time file.
    pub fn new(folder: &Path, now_us: u64) -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/clock.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.join("clock.so")).arg(source);
        assert!(compiler.status().unwrap().success(), "the clock does not compile");
        let clock = Self { file: File::create(folder.join("time")).unwrap(), now_us: AtomicU64::new(now_us) };
        clock.write(now_us);
        clock
    }

    pub fn variables(folder: &Path) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", folder.join("clock.so")), ("TEST_CLOCK", folder.join("time"))]
    }

    pub fn now_us(&self) -> u64 {
        self.now_us.load(Ordering::SeqCst)
    }

    /// Moves the clock forward.
    pub fn advance(&self, by_us: u64) {
        self.write(self.now_us.fetch_add(by_us, Ordering::SeqCst) + by_us);
    }

    /// Sets a running clock back.
    pub fn set_back(&self, by_us: u64) {
        self.write(self.now_us.load(Ordering::SeqCst).wrapping_sub(by_us));
    }

    /// The process maps the file into memory and sees the change at once.
    fn write(&self, now_us: u64) {
        self.file.write_all_at(&now_us.to_ne_bytes(), 0).unwrap();
    }
}
