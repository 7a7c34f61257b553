//! Shared helpers: real servers, which the tests start themselves, and clients.

pub mod balancer;
pub mod browser;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod command;
pub mod history;
pub mod journal;
pub mod page;
pub mod pod;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod python;
pub mod redis;
pub mod topology;
pub mod workload;

use std::{
    fs::File,
    path::PathBuf,
    time::{Duration, Instant},
};

pub use self::{
    client::{Client, Response},
    cluster::Cluster,
    collector::Collector,
    pod::{Account, Pod},
};

/// The timeout of [`eventually`]. It is generous; tests that promise a time measure it themselves.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(30);

/// Polls every 10 ms until the condition holds. Panics after [`CONDITION_TIMEOUT`].
pub async fn eventually(holds: impl AsyncFnMut() -> bool) {
    eventually_within(CONDITION_TIMEOUT, holds).await;
}

/// Polls every 10 ms until the condition holds. Panics after the timeout.
pub async fn eventually_within(timeout: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < timeout, "the condition did not hold within {timeout:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Serializes the tests that keep a processor busy, so that the many other tests, which mostly
/// wait, meet their deadlines. The lock is a file, because each test may be a process of its own.
pub async fn exclusive_cpu() -> File {
    tokio::task::spawn_blocking(|| lock_file("cpu")).await.unwrap()
}

/// Locks a file of the test run until the returned value is dropped.
pub fn lock_file(name: &str) -> File {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let file = File::options().create(true).read(true).write(true).truncate(false).open(path).unwrap();
    file.lock().unwrap();
    file
}

/// A certificate for localhost, created by `lockable dev-cert`.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
    _folder: tempfile::TempDir,
}

pub async fn dev_cert() -> Certificate {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let made = pod::lockable(&["dev-cert", "--out", out]).output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let [cert, key] = ["cert.pem", "key.pem"].map(|file| folder.path().join(file));
    Certificate { cert, key, _folder: folder }
}

/// Runs a shell command and returns its standard output.
pub async fn run_shell(line: &str) -> String {
    let ran = tokio::process::Command::new("sh").args(["-c", line]).output().await.unwrap();
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}
