use tokio::process::Command;

/// The virtual environment with the packages of tests/requirements.txt, which tests/run creates.
const PYTHON: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/python/bin/python3");

/// Runs a script with the packages of the tests, such as the published client.
pub async fn run(script: &str, variables: &[(&str, &str)]) {
    let ran = command().args(["-c", script]).envs(variables.iter().copied()).output().await;
    let ran = ran.expect("tests/run creates the virtual environment");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// Returns the Python of the virtual environment as a command.
pub fn command() -> Command {
    Command::new(PYTHON)
}
