//! What the tests share: real servers that they start themselves, and clients.

pub mod balancer;
pub mod browser;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod command;
pub mod history;
pub mod holders;
pub mod journal;
pub mod page;
pub mod pod;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod python;
pub mod redis;
pub mod topology;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, MutexGuard};

pub use self::{
    client::{Answer, Client},
    cluster::Cluster,
    collector::Collector,
    pod::{Account, Pod},
};

/// How long a condition is waited for. It is generous: what has to be quick is
/// timed by the test that says so.
const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until the condition holds.
pub async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "a condition did not come about in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Taken by what keeps a processor busy all the time: one of these runs at once,
/// so that many tests can that mostly wait.
pub async fn crowd_turn() -> MutexGuard<'static, ()> {
    static CROWD: Mutex<()> = Mutex::const_new(());
    CROWD.lock().await
}

/// A certificate for localhost, as `lockable dev-cert` makes it.
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

/// Runs a line in a shell; returns what it prints.
pub async fn run_shell(line: &str) -> String {
    let ran = tokio::process::Command::new("sh").args(["-c", line]).output().await.unwrap();
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}
