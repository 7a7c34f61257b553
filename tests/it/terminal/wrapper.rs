//! The two wrappers: `flock` and `lockable run`.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use tokio::task::JoinHandle;

use super::{
    case::{Case, Event},
    folder::{Folder, Programs},
    processes::MARK,
};
use crate::support::{Client, Pod, proxy::Proxy};

const LONG_LEASE: &str = "20s";
const SHORT_LEASE: &str = "6s";
/// A time after which a lock with the short lease must have been renewed.
const OUTLAST: Duration = Duration::from_secs(8);
/// How long the next holder holds the lock: several intervals of the command's writes.
const NEXT_HOLD: Duration = Duration::from_millis(150);

/// The server and the programs of all cases.
pub struct Server {
    pod: Pod,
    token: String,
    pub client: Client,
    programs: Programs,
}

impl Server {
    pub async fn start() -> Self {
        let pod = Pod::start().await;
        let token = pod.account("business").await.token;
        let client = pod.client(&token);
        Self { pod, token, client, programs: Programs::compile() }
    }
}

/// A wrapper in one case.
pub enum Wrapper<'a> {
    Flock,
    Lockable { server: &'a Server, name: String, proxy: Option<Proxy> },
}

/// Another holder of the lock.
pub enum Other {
    File(File),
    Owner,
}

/// The time of the next holder's grant, from and to, on the command's clock.
pub type Tenure = (u64, u64);

impl<'a> Wrapper<'a> {
    pub async fn lockable(server: &'a Server, case: Case) -> Self {
        static CASES: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("{}/{}", case.to_string().replace(' ', "/").to_lowercase(), CASES.fetch_add(1, Ordering::Relaxed));
        let port = server.pod.authority("").trim_start_matches(':').parse().unwrap();
        let proxy = match case.event {
            Event::Away => Some(Proxy::start(port).await),
            _ => None,
        };
        Self::Lockable { server, name, proxy }
    }

    pub fn is_flock(&self) -> bool {
        matches!(self, Self::Flock)
    }

    pub fn program(&self) -> &'static str {
        if self.is_flock() { "flock" } else { "lockable" }
    }

    pub fn folder(&self, case: Case, server: &Server) -> Folder {
        let [outer, inner] = match self {
            Self::Flock => ["flock held".to_owned(), "flock held.inner".to_owned()],
            Self::Lockable { name, .. } => {
                [(name.clone(), case.has_short_lease()), (format!("{name}/inner"), case.has_short_inner_lease())].map(
                    |(name, is_short)| {
                        let lease = if is_short { SHORT_LEASE } else { LONG_LEASE };
                        let program = program();
                        format!("{program} run --lease {lease} --kill-after 500ms {name} --")
                    },
                )
            }
        };
        Folder::new(case, &server.programs, &outer, &inner)
    }

    pub fn variables(&self, folder: &Folder) -> Vec<(String, String)> {
        let mut variables = vec![(MARK.to_owned(), folder.path().to_str().unwrap().to_owned())];
        if let Self::Lockable { server, proxy, .. } = self {
            let port = proxy.as_ref().map(Proxy::port);
            let origin = port.map_or(server.pod.origin(), |port| format!("http://127.0.0.1:{port}"));
            variables.extend(server.variables(&origin));
        }
        variables
    }

    /// Acquires the lock for another holder.
    pub async fn occupy(&self, folder: &Folder) -> Other {
        match self {
            Self::Flock => {
                let file = File::create(folder.lock_file()).unwrap();
                file.lock().unwrap();
                Other::File(file)
            }
            Self::Lockable { server, name, .. } => {
                let held = server.client.get(&format!("/v1/acquire/{name}?owner=other&lease=1m")).await;
                assert_eq!(held.json["response"], true, "{}", held.text);
                Other::Owner
            }
        }
    }

    pub async fn free(&self, other: Other) {
        match (self, other) {
            (Self::Lockable { server, name, .. }, Other::Owner) => server.release(name, "other").await,
            (_, Other::File(file)) => file.unlock().unwrap(),
            (Self::Flock, Other::Owner) => {}
        }
    }

    /// The number of requests in the queue of `lockable run`'s lock.
    pub async fn waiting(&self) -> Option<u64> {
        let Self::Lockable { server, name, .. } = self else { return None };
        server.client.get(&format!("/v1/locks/{name}")).await.json["waiting"].as_u64()
    }

    /// Whether the wrapper waits for the lock.
    pub async fn is_waiting(&self, folder: &Folder) -> bool {
        match self {
            Self::Flock => {
                let file = format!(":{} ", fs::metadata(folder.lock_file()).unwrap().ino());
                let locks = fs::read_to_string("/proc/locks").unwrap();
                locks.lines().any(|line| line.contains("->") && line.contains(&file))
            }
            Self::Lockable { .. } => self.waiting().await == Some(1),
        }
    }

    /// Starts the next holder, which waits for the lock, holds it briefly, and releases it.
    pub fn next_holder(&self) -> Option<JoinHandle<Tenure>> {
        let Self::Lockable { server, name, .. } = self else { return None };
        let (client, name) = (server.client.clone(), name.clone());
        Some(tokio::spawn(async move {
            let acquire = format!("/v1/acquire/{name}?owner=next&wait=50s&lease=20s");
            while client.get(&acquire).await.json["response"] != true {}
            let since = now();
            tokio::time::sleep(NEXT_HOLD).await;
            let until = now();
            client.get(&format!("/v1/release/{name}?owner=next")).await;
            (since, until)
        }))
    }

    /// Returns whether there was a holder.
    pub async fn break_lock(&self) -> bool {
        let Self::Lockable { server, name, .. } = self else { return true };
        server.client.request("DELETE", &format!("/v1/locks/{name}"), &[]).await.json["response"] == true
    }

    /// The server's status of the lock.
    pub async fn status(&self) -> String {
        let Self::Lockable { server, name, .. } = self else { return String::new() };
        server.client.get(&format!("/v1/locks/{name}")).await.text
    }

    pub fn cut(&self) {
        if let Self::Lockable { proxy: Some(proxy), .. } = self {
            proxy.black_hole();
        }
    }

    pub fn heal(&self) {
        if let Self::Lockable { proxy: Some(proxy), .. } = self {
            proxy.pass();
        }
    }

    /// Waits for longer than the lease. The oracle has no lease.
    pub async fn outlast(&self) {
        if !self.is_flock() {
            tokio::time::sleep(OUTLAST).await;
        }
    }
}

impl Server {
    /// The settings of `lockable run`.
    fn variables(&self, origin: &str) -> [(String, String); 3] {
        [
            ("LOCKABLE_URL", origin),
            ("LOCKABLE_AUTH_TOKEN", &self.token),
            // There is no saved login.
            ("XDG_CONFIG_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/nobody")),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    }

    async fn release(&self, name: &str, owner: &str) {
        let released = self.client.get(&format!("/v1/release/{name}?owner={owner}")).await;
        assert_eq!(released.status, 200, "{}", released.text);
    }
}

/// The program under test; `TERMINAL_PROGRAM` sets another build of it.
pub fn program() -> String {
    std::env::var("TERMINAL_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_lockable").to_owned())
}

/// The time on the command's clock.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Whether this machine permits new PID namespaces.
pub async fn may_unshare() -> bool {
    let mut unshare = tokio::process::Command::new("unshare");
    let ran = unshare.args(["--pid", "--fork", "--mount-proc", "true"]).output().await;
    ran.is_ok_and(|ran| ran.status.success())
}
