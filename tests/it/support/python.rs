use std::{path::PathBuf, process::Command};

use tokio::sync::OnceCell;

/// Runs a script in the virtual environment of the tests, which contains the published client.
pub async fn run(script: &str, variables: &[(&str, &str)]) {
    let ran = command().await.args(["-c", script]).envs(variables.iter().copied()).output().await.unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// Returns the Python of the virtual environment of the tests.
pub async fn command() -> tokio::process::Command {
    static PYTHON: OnceCell<PathBuf> = OnceCell::const_new();
    let python = PYTHON.get_or_init(async || tokio::task::spawn_blocking(install).await.unwrap()).await;
    tokio::process::Command::new(python)
}

/// Creates the virtual environment once, in cargo's target folder.
fn install() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = folder.join("bin/python3");
    let installs = |program: &PathBuf, args: &[&str]| {
        let ran = Command::new(program).args(args).output().unwrap();
        assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    let has_client = |python: &PathBuf| {
        let import =
            Command::new(python).args(["-c", "import boto3, lockable, moto.s3, requests, schemathesis"]).output();
        import.is_ok_and(|ran| ran.status.success())
    };
    if !has_client(&python) {
        installs(&"python3".into(), &["-m", "venv", "--clear", folder.to_str().unwrap()]);
        installs(
            &python,
            &[
                "-m",
                "pip",
                "install",
                "--quiet",
                "requests",
                "lockable-dev==0.1.2",
                "schemathesis==4.32.5",
                "boto3==1.44.5",
                "moto[s3]==5.2.5",
            ],
        );
    }
    python
}
