//! Variables and arguments of the script, in each shell.

use std::os::unix::{fs::PermissionsExt, process::ExitStatusExt};

use super::{END_TIMEOUT, SHELLS, script};
use crate::support::{Pod, command::start_ready, dev_cert};

/// Prints the command's environment and umask.
const SHOW: &str = "echo \"$LOCKABLE_LOCK|${LOCKABLE_OWNER-}|$LOCKABLE_HOLDER\"; umask";

struct Case {
    args: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
    code: i32,
    stdout: &'static str,
    stderr: &'static str,
}

const fn case(
    args: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
    (code, stdout, stderr): (i32, &'static str, &'static str),
) -> Case {
    Case { args, variables, code, stdout, stderr }
}

const CASES: &[Case] = &[
    case(&["--help"], &[], (0, "Usage: lockable.sh", "")),
    case(&["--no-such", "a", "true"], &[], (2, "", "there is no option --no-such\nUsage:")),
    case(&[], &[], (2, "", "the lock's name is missing\nUsage:")),
    case(&["", "true"], &[], (2, "", "the lock's name is missing\nUsage:")),
    case(&["a"], &[], (2, "", "the command is missing\nUsage:")),
    case(&["a", "--"], &[], (2, "", "the command is missing\nUsage:")),
    case(&["--", "-a", "--", "echo", "--", "x"], &[], (0, "-- x\n", "")),
    case(&["a", "/no/such/program"], &[], (127, "", "/no/such/program")),
    case(&["a", "sh", "-c", "exit 255"], &[], (255, "", "")),
    case(&["é a/ü%[1]", "sh", "-c", "echo $LOCKABLE_LOCK"], &[], (0, "é a/ü%[1]\n", "")),
    case(&["a/../b", "echo", "no"], &[], (69, "", "segment \".\" or \"..\"")),
    case(&["a//b", "echo", "no"], &[], (69, "", "empty segment")),
    case(&["a", "true"], &[("LOCKABLE_URL", "")], (2, "", "LOCKABLE_URL is not set")),
    case(&["a", "true"], &[("LOCKABLE_URL", "locks.example.com")], (2, "", "LOCKABLE_URL is not an address")),
    case(&["a", "true"], &[("LOCKABLE_AUTH_TOKEN", "")], (2, "", "there is no token")),
    case(&["a", "true"], &[("LOCKABLE_AUTH_TOKEN", "a\"\noutput = x")], (2, "", "has no token on its first line")),
    case(&["a", "true"], &[("LOCKABLE_TOKEN_FILE", "/no/such/file")], (2, "", "there is no file /no/such/file")),
    case(&["a", "true"], &[("LOCKABLE_CA_FILE", "/no/such/file")], (2, "", "/no/such/file cannot be read")),
    case(&["a", "true"], &[("LOCKABLE_TOKEN_FILE", ""), ("LOCKABLE_CA_FILE", "")], (0, "", "")),
    case(&["a", "true"], &[("LOCKABLE_LEASE", "")], (0, "", "")),
    case(&["a", "true"], &[("LOCKABLE_LEASE", "1.5m"), ("LOCKABLE_WAIT", "08s")], (0, "", "")),
    case(&["a", "true"], &[("LOCKABLE_LEASE", "5s")], (2, "", "LOCKABLE_LEASE must be at least 6s")),
    case(&["a", "true"], &[("LOCKABLE_LEASE", "soon")], (2, "", "LOCKABLE_LEASE is not a duration")),
    case(&["a", "true"], &[("LOCKABLE_WAIT", "5 m")], (2, "", "LOCKABLE_WAIT is not a duration")),
    case(&["a", "true"], &[("LOCKABLE_NAMESPACE", "elsewhere")], (69, "", "namespace")),
    case(
        &["busy", "true"],
        &[("LOCKABLE_WAIT", "0")],
        (75, "", "busy is held by another (on purpose, \"twice\") since 20"),
    ),
    case(
        &["busy", "true"],
        &[("LOCKABLE_WAIT", "700ms")],
        (75, "", "waiting for busy: it is held by another (on purpose"),
    ),
    case(
        &["a", "sh", "-c", SHOW],
        &[("LOCKABLE_OWNER", "jenkins:My Folder\t1")],
        (0, "a|jenkins:My Folder\t1|jenkins:My-Folder-1:", "LOCKABLE_OWNER"),
    ),
    case(&["a", "sh", "-c", SHOW], &[("LOCKABLE_OWNER", "→→→→→→→→→→→→→→→→→→→→→→→→→→→→→→")], (0, "", "→\n")),
    case(&["a", "true"], &[("LOCKABLE_NOTE", "a\tb\u{202e}")], (0, "", "LOCKABLE_NOTE")),
    case(&["a", "sh", "-c", SHOW], &[("name", "mine"), ("token", "mine")], (0, "\n0022\n", "")),
    case(&["a", "sh", "-c", "echo $lk_name$token"], &[("token", "mine")], (0, "mine\n", "")),
    case(&["a", "true"], &[("LOCKABLE_LOCK", "a")], (0, "", "this run is inside a run that holds a,")),
];

#[tokio::test]
async fn script_accepts_the_variables_of_the_binary() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let acquire = "/v1/acquire/busy?owner=another&note=on%20purpose,%20%22twice%22&lease=1h";
    assert_eq!(pod.client(&token).get(acquire).await.json["response"], true);
    for shell in SHELLS {
        for case in CASES {
            let mut command = script(shell, &pod, &token, case.args);
            command.env("LOCKABLE_URL", format!("{}//", pod.origin())).envs(case.variables.iter().copied());
            let ran = command.output().await.unwrap();
            let [stdout, stderr] = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
            let about = format!("{shell:?} {:?} {:?}: {stdout}{stderr}", case.args, case.variables);
            assert_eq!(ran.status.code(), Some(case.code), "{about}");
            assert!(stdout.contains(case.stdout) && stderr.contains(case.stderr), "{about}");
            assert_eq!(case.stderr.is_empty(), stderr.is_empty(), "{about}");
        }
        let ran = script(shell, &pod, &token, &["a", "sh", "-c", "kill -KILL $$"]).output().await.unwrap();
        assert_eq!(ran.status.code(), Some(137), "{shell:?}");
        let ran = script(shell, &pod, &token, &["a", "sh", "-c", "kill -SEGV $$"]).output().await.unwrap();
        assert_eq!(ran.status.signal(), Some(11), "{shell:?}");
    }
}

#[tokio::test]
async fn script_reads_token_and_certificates_from_files() {
    let certificate = dev_cert().await;
    let pod = Pod::builder().tls(&certificate).start().await;
    let token = pod.first_token();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("  {token}\r\nsecond line\n")).unwrap();
    for shell in SHELLS {
        let mut trusting = script(shell, &pod, "another", &["a", "true"]);
        trusting.env("LOCKABLE_TOKEN_FILE", &file).env("LOCKABLE_CA_FILE", &certificate.cert);
        let ran = trusting.output().await.unwrap();
        assert_eq!((ran.status.code(), String::from_utf8_lossy(&ran.stderr).as_ref()), (Some(0), ""), "{shell:?}");
        let ran = script(shell, &pod, &token, &["a", "true"]).output().await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(69), "{shell:?}: {said}");
        assert!(said.contains("certificate") && !said.contains("retrying"), "{shell:?}: {said}");
    }
}

/// A permanent error ends the wait at once, an unknown host after one retry.
#[tokio::test]
async fn script_does_not_retry_permanent_errors() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let without_curl = tempfile::tempdir().unwrap();
    for program in ["cat", "cp", "grep", "mkfifo", "mktemp", "od", "rm", "sed", "setsid", "sleep", "tr", "uname"] {
        std::os::unix::fs::symlink("/usr/bin/busybox", without_curl.path().join(program)).unwrap();
    }
    for shell in SHELLS {
        for (variable, value, words) in [
            ("LOCKABLE_URL", format!("https{}", pod.origin().trim_start_matches("http")), "cannot be reached"),
            ("LOCKABLE_URL", "http://no-such-host.invalid".to_owned(), "no-such-host.invalid"),
            ("PATH", without_curl.path().display().to_string(), "curl cannot be run"),
        ] {
            let mut command = script(shell, &pod, &token, &["a", "echo", "no"]);
            if variable == "PATH" {
                // The shell itself is given by its path.
                command = script(&[&["/usr/bin/env", "-S"], shell].concat(), &pod, &token, &["a", "echo", "no"]);
                command = with_path(command, shell, &value);
            } else {
                command.env(variable, &value);
            }
            let ran = tokio::time::timeout(END_TIMEOUT, command.output()).await.unwrap().unwrap();
            let said = String::from_utf8_lossy(&ran.stderr);
            assert_eq!((ran.status.code(), ran.stdout.len()), (Some(69), 0), "{shell:?} {value}: {said}");
            assert!(said.contains(words), "{shell:?} {value}: {said}");
        }
    }
}

/// The same command with another PATH and an absolute path of the shell.
fn with_path(command: tokio::process::Command, shell: &[&str], path: &str) -> tokio::process::Command {
    let mut other = tokio::process::Command::new(format!("/usr/bin/{}", shell[0]));
    let words: Vec<_> = command.as_std().get_args().skip(2).collect();
    other.args(words).envs(command.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
    other.env("PATH", path).stdin(std::process::Stdio::null());
    other
}

#[tokio::test]
async fn token_is_in_no_command_line_trace_or_readable_file() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let folder = tempfile::tempdir().unwrap();
    for shell in SHELLS {
        let mut command = script(shell, &pod, &token, &["a", "sh", "-c", "echo ready; read -r line"]);
        // Enables a trace of the shell, and sets the folder of the temporary files.
        command.env("SHELLOPTS", "xtrace").env("TMPDIR", folder.path()).stdin(std::process::Stdio::piped());
        let mut child = start_ready(command).await;
        let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(files.len(), 1, "{shell:?}");
        assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o700, "{shell:?}");
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&line).contains(&token), "{shell:?}");
        }
        drop(child.stdin.take());
        let ran = child.wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(!said.contains(&token), "{shell:?}: {said}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{shell:?}");
    }
}
