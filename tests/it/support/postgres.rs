use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    CONDITION_TIMEOUT, eventually, lock_file,
    process::{Process, free_port},
};

/// A database that belongs to one test. It starts empty.
pub struct Postgres {
    pub url: String,
    name: String,
    port: u16,
    /// The server, if it belongs to this test alone.
    own: Option<Server>,
}

/// A lock on a table or on rows, which blocks statements that conflict with it.
pub struct TableLock {
    url: String,
    /// The backend process that holds the lock.
    pid: String,
}

impl Postgres {
    /// Creates a database on the server that all tests of a run share.
    pub async fn database() -> Self {
        static SHARED: OnceLock<u16> = OnceLock::new();
        blocking(|| Self::create(*SHARED.get_or_init(shared_server), None)).await
    }

    /// Creates a database on a server that the test may stop.
    pub async fn own() -> Self {
        blocking(|| {
            let server = Server::new();
            Self::create(server.port, Some(server))
        })
        .await
    }

    fn create(port: u16, own: Option<Server>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        query(&maintenance(port), &format!("CREATE DATABASE {name}")).unwrap();
        let url = format!("postgres://lockable@127.0.0.1:{port}/{name}");
        // An upgrade starts with the migration. An older server would leave the schema at its own
        // version.
        if std::env::var_os("TEST_OTHER_PROGRAM").is_some() {
            let mut migrate = Command::new(env!("CARGO_BIN_EXE_lockable"));
            assert!(migrate.arg("migrate").env("LOCKABLE_DATABASE_URL", &url).status().unwrap().success());
        }
        Self { url, name, port, own }
    }

    /// Stops the server and closes all connections to it.
    pub fn stop(&mut self) {
        self.own.as_mut().expect("only a server of this test can be stopped").stop();
    }

    /// Starts the server again with its data.
    pub fn start(&mut self) {
        self.own.as_mut().expect("only a server of this test can be started").start();
    }

    /// Runs statements. Returns the output or the error text.
    pub fn query(&self, statements: &str) -> Result<String, String> {
        query(&self.url, statements)
    }

    /// Locks a table in a PostgreSQL lock mode until [`TableLock::end`], for one minute at most.
    pub async fn lock_table(&self, table: &str, mode: &str) -> TableLock {
        let lock = format!("BEGIN; LOCK TABLE {table} IN {mode} MODE; SELECT pg_sleep(60)");
        let url = self.url.clone();
        std::thread::spawn(move || query(&url, &lock));
        // The statement text does not show yet whether the lock is granted.
        let holder = format!(
            "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE relation = '{table}'::regclass \
             AND granted AND query LIKE 'BEGIN; LOCK TABLE {table} %' AND wait_event = 'PgSleep'"
        );
        let mut pid = String::new();
        eventually(async || {
            self.query(&holder).unwrap().trim().clone_into(&mut pid);
            !pid.is_empty()
        })
        .await;
        TableLock { url: self.url.clone(), pid }
    }

    /// Runs a statement and holds its row locks until [`TableLock::end`], for one minute at most.
    pub async fn hold_rows(&self, statement: &str) -> TableLock {
        let held = format!("BEGIN; {statement}; SELECT pg_sleep(60)");
        let holder = format!(
            "SELECT pid FROM pg_stat_activity WHERE query = '{held}' AND wait_event = 'PgSleep' \
             AND datname = current_database()"
        );
        let url = self.url.clone();
        std::thread::spawn(move || query(&url, &held));
        let mut pid = String::new();
        eventually(async || {
            self.query(&holder).unwrap().trim().clone_into(&mut pid);
            !pid.is_empty()
        })
        .await;
        TableLock { url: self.url.clone(), pid }
    }

    /// Returns the number of statements with this prefix that wait for a lock.
    pub fn lock_waiters(&self, statement: &str) -> usize {
        let count = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '{statement}%' \
             AND datname = current_database()"
        );
        self.query(&count).unwrap().trim().parse().unwrap()
    }

    /// Returns the number of token and namespace lookups so far, without the servers' own polls for
    /// changes.
    pub fn account_queries(&self) -> u64 {
        let statement = format!(
            "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid \
             WHERE d.datname = '{}' AND query ~ 'FROM (tokens|namespaces) ' AND query !~ 'revision > '",
            self.name
        );
        query(&maintenance(self.port), &statement).unwrap().trim().parse().unwrap()
    }
}

impl TableLock {
    /// Releases the lock.
    pub fn end(self) {
        query(&self.url, &format!("SELECT pg_terminate_backend({})", self.pid)).unwrap();
    }
}

/// A PostgreSQL server with its own data directory.
struct Server {
    home: String,
    port: u16,
    holder: Option<Process>,
}

/// Runs the server until standard input has a line or is closed, even if the writer was killed.
/// Then deletes the server's files, unless the line is `keep`.
const RUN_UNTIL_STDIN_CLOSES: &str = r#"
"$1"/postgres -D "$2"/data -p "$3" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c fsync=off -c full_page_writes=off -c max_connections=500 \
    -c shared_preload_libraries=pg_stat_statements >"$2"/log 2>&1 &
read -r line || true
kill -QUIT $!
wait
[ "$line" = keep ] || rm -rf "$2"
"#;

/// Standard input of the shared server, which closes when the test runner ends: process `$1`. The
/// script deletes the file `$2` after the server's end.
const UNTIL_RUNNER_ENDS: &str = r#"
runner=$1 state=$2
shift 2
tail --pid="$runner" -f /dev/null | "$@"
rm -f "$state"
"#;

/// Returns the port of the server that all tests of a run share. The first test starts it. It stops
/// when the parent of all tests ends, `cargo nextest` or `cargo test`.
fn shared_server() -> u16 {
    let runner = std::os::unix::process::parent_id().to_string();
    let mut state = lock_file(&format!("postgres-{runner}"));
    let mut known = String::new();
    state.read_to_string(&mut known).unwrap();
    if let Ok(port) = known.parse()
        && query(&maintenance(port), "SELECT 1").is_ok()
    {
        return port;
    }
    let (home, port) = (create_home(), free_port());
    let run = run_server(&home, port);
    let mut command = Command::new("sh");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("postgres-{runner}"));
    command.args(["-c", UNTIL_RUNNER_ENDS, "sh", &runner]).arg(path);
    command.arg(run.get_program()).args(run.get_args()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut server = command.spawn().unwrap();
    std::thread::spawn(move || server.wait());
    wait_for_server(port);
    state.set_len(0).unwrap();
    state.write_all_at(port.to_string().as_bytes(), 0).unwrap();
    port
}

/// Creates a data directory.
fn create_home() -> String {
    let create = r#"home=$(mktemp -d "${TMPDIR:-/tmp}/lockable-postgres.XXXXXX")
        "$1"/initdb -D "$home"/data -U lockable --auth=trust --no-sync --encoding=UTF8 --locale=C >/dev/null
        echo "$home""#;
    let output = unprivileged(create).arg(binaries()).output().unwrap();
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Returns the command that runs a server until its standard input closes.
fn run_server(home: &str, port: u16) -> Command {
    let mut command = unprivileged(RUN_UNTIL_STDIN_CLOSES);
    command.arg(binaries()).arg(home).arg(port.to_string());
    command
}

#[expect(clippy::disallowed_methods, reason = "this runs on its own thread, not on a worker")]
fn wait_for_server(port: u16) {
    let begin = Instant::now();
    while let Err(error) = query(&maintenance(port), "CREATE EXTENSION IF NOT EXISTS pg_stat_statements") {
        assert!(begin.elapsed() < CONDITION_TIMEOUT, "PostgreSQL does not start: {error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Server {
    fn new() -> Self {
        let mut server = Self { home: create_home(), port: free_port(), holder: None };
        server.start();
        server
    }

    fn start(&mut self) {
        let mut command = run_server(&self.home, self.port);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        self.holder = Some(Process::start(command));
        wait_for_server(self.port);
    }

    fn stop(&mut self) {
        self.end("keep\n");
    }

    fn end(&mut self, line: &str) {
        if let Some(mut holder) = self.holder.take() {
            // Dropping the pipe ends the script, even if the write failed.
            let _ = holder.child().stdin.take().map(|mut stdin| stdin.write_all(line.as_bytes()));
            let _ = holder.child().wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.holder.is_none() {
            self.start();
        }
        self.end("");
    }
}

/// Returns a shell script as a command of an unprivileged user, because PostgreSQL refuses to run
/// as root.
fn unprivileged(script: &str) -> Command {
    let is_root = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0;
    let mut command = if is_root { Command::new("runuser") } else { Command::new("sh") };
    if is_root {
        command.args(["-u", "postgres", "--", "sh"]);
    }
    // Its own process group, so that Ctrl-C does not reach the server before the test stops it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.args(["-ec", script, "sh"]).current_dir("/");
    command
}

/// Returns the folder of the PostgreSQL programs: Debian's newest version, or else the one on
/// `PATH`.
fn binaries() -> PathBuf {
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    if let Some(newest) = installed.max_by_key(version) {
        return newest.join("bin");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find(|folder| Path::new(folder).join("initdb").exists())
        .expect("PostgreSQL is not installed; tests/run installs it")
}

/// Returns the URL of the maintenance database, which contains no test data.
fn maintenance(port: u16) -> String {
    format!("postgres://lockable@127.0.0.1:{port}/postgres")
}

fn query(target: &str, statement: &str) -> Result<String, String> {
    let output = Command::new("psql").args(["-qXAt", "-v", "ON_ERROR_STOP=1", "-c", statement, target]).output();
    let output = output.map_err(|error| error.to_string())?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}
