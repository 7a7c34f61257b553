//! Many concurrent runs.

use super::run;
use crate::support::Cluster;

const RUNS: usize = 50;

/// Creates a folder while it runs, and prints `overlap` if another run has created it.
const ALONE: &str = "mkdir \"$0/in\" || echo overlap; echo one >>\"$0/count\"; sleep 0.02; rmdir \"$0/in\"";

#[tokio::test(flavor = "multi_thread")]
async fn fifty_runs_on_three_pods_do_not_overlap() {
    let cluster = Cluster::start(3).await;
    let token = cluster.account("business").await.token;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let running: Vec<_> = (0..RUNS)
        .map(|number| {
            let mut command = run(&cluster.pods[number % 3], &token, &["alone", "--", "sh", "-c", ALONE, path]);
            tokio::spawn(async move { command.output().await.unwrap() })
        })
        .collect();
    for running in running {
        let ran = running.await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!((ran.status.code(), &*ran.stdout), (Some(0), &b""[..]), "{said}");
    }
    let count = std::fs::read_to_string(folder.path().join("count")).unwrap();
    assert_eq!(count.lines().count(), RUNS);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_nested_runs_do_not_overlap() {
    let cluster = Cluster::start(1).await;
    let token = cluster.account("business").await.token;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let lockable = env!("CARGO_BIN_EXE_lockable");
    let running: Vec<_> = (0..20)
        .map(|number| {
            let outer = format!("outer-{number}");
            let args = [&*outer, "--", lockable, "run", "inner", "--", "sh", "-c", ALONE, path];
            let mut command = run(&cluster.pods[0], &token, &args);
            tokio::spawn(async move { command.output().await.unwrap() })
        })
        .collect();
    for running in running {
        let ran = running.await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!((ran.status.code(), &*ran.stdout), (Some(0), &b""[..]), "{said}");
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("count")).unwrap().lines().count(), 20);
}
