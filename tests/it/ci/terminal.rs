//! The script's command stays in the caller's job, as under `flock`.

use std::process::Stdio;

use tokio::process::Command;

use super::{SCRIPT, SHELLS, script};
use crate::support::{Pod, command::is_held, run_shell};

/// Types into bash in a new terminal, and checks its output.
const TYPIST: &str = r#"
import os, pty, re, select, sys
pid, fd = pty.fork()
if pid == 0:
    os.environ["PS1"] = "PROMPT>"
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
def expect(words):
    seen = ""
    while not re.search(words, seen):
        if not select.select([fd], [], [], 20)[0]:
            sys.exit(f"{words!r} did not come: {seen!r}")
        seen += os.read(fd, 65536).decode(errors="replace")
    return seen
def type(text, words):
    os.write(fd, text.encode())
    return expect(words)
run = os.environ["RUN"]
expect("PROMPT>")
type("stty -echo; bind 'set enable-bracketed-paste off'; ulimit -c 0\n", "PROMPT>")
ticks = "sh -c 'for i in $(seq 600); do echo tick $i; sleep 0.1; done'"
with open("s.sh", "w") as script:
    script.write(f"{run} a {ticks}\necho went on\n")
for line in [f"{run} a {ticks}", f"{run} a {ticks} </dev/null", f"{run} a {ticks} | cat", "bash ./s.sh",
        f"for i in 1 2 3; do {run} a {ticks}; echo went on; done", f"({run} a {ticks})"]:
    type(line + "\n", "tick 2")
    assert "Stopped" in type("\x1a", "PROMPT>"), line
    type("echo $((6 * 7))\n", "42")
    type("fg\n", r"tick \d+\D")
    seen = type("\x03", "PROMPT>")
    assert "went on" not in seen, line
    type("echo code=$?\n", "code=130")
    type(line + "\n", "tick 2")
    assert "went on" not in type("\x03", "PROMPT>"), line
    type("echo code=$?\n", "code=130")
type(f"echo data | {run} a sh -c 'printf Password: >/dev/tty; read x </dev/tty; echo got $x'\n", "Password:")
type("secret\n", "got secret")
type(f"{run} a seq 1 1000 | less\n", r"20\r?\n")
type(" ", r"40\r?\n")
type("q", "PROMPT>")
"#;

async fn type_in_a_terminal(pod: &Pod, token: &str, run: &str, path: &str) {
    let folder = tempfile::tempdir().unwrap();
    let typist = folder.path().join("typist.py");
    std::fs::write(&typist, TYPIST).unwrap();
    let variables = format!(
        "LOCKABLE_URL='{}' LOCKABLE_AUTH_TOKEN='{token}' LOCKABLE_LEASE=6s TERM=xterm LINES=24 COLUMNS=80 LESS=",
        pod.origin()
    );
    let python = run_shell("command -v python3").await;
    let directory = folder.path().display();
    run_shell(&format!("cd {directory} && {variables} RUN='{run}' {path} {} typist.py 2>&1 >&2", python.trim())).await;
    assert!(!is_held(&pod.client(token), "a").await);
}

#[tokio::test]
async fn script_handles_terminal_signals() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    for shell in SHELLS {
        type_in_a_terminal(&pod, &token, &format!("{} {SCRIPT}", shell.join(" ")), "").await;
    }
}

/// GNU env restores INT and QUIT for a background process.
#[tokio::test]
async fn script_handles_terminal_signals_without_gnu_env() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let programs = tempfile::tempdir().unwrap();
    let folder = programs.path().display();
    run_shell(&format!(
        "cd {folder} && for i in $(busybox --list); do ln -s $(command -v busybox) $i; done; \
         for i in bash curl dash less; do ln -sf $(command -v $i) $i; done"
    ))
    .await;
    for shell in ["dash", "bash", "sh"] {
        type_in_a_terminal(&pod, &token, &format!("{shell} {SCRIPT}"), &format!("PATH={folder}")).await;
    }
}

#[tokio::test]
async fn command_stays_in_process_group_and_session_of_caller() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    let ids = "read -r pid name state parent group session rest </proc/self/stat; echo $group $session";
    for shell in SHELLS {
        for options in ["", "set -m; ", "set -m; export SHELLOPTS; "] {
            let words = shell.join(" ");
            let line = format!("{options}{words} {SCRIPT} a sh -c '{ids}; exit 5'; echo $?; {ids}");
            let mut command = Command::new("bash");
            let given = script(shell, &pod, &token, &[]);
            command.args(["-c", &line]).stdin(Stdio::null());
            command.envs(given.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
            let ran = command.output().await.unwrap();
            let said = String::from_utf8(ran.stdout).unwrap();
            let lines: Vec<_> = said.lines().collect();
            let [command, code, caller] = lines[..] else { panic!("{line}: {said}") };
            assert_eq!(code, "5", "{line}: {said}");
            // With job control bash creates a group for each job, so only the session can be compared.
            let session = |ids: &str| ids.split_once(' ').map(|(_, session)| session.to_owned());
            assert_eq!(session(command), session(caller), "{line}: {said}");
            if options.is_empty() {
                assert_eq!(command, caller, "{line}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn command_inherits_closed_standard_input() {
    let pod = Pod::start().await;
    let token = pod.first_token();
    for shell in SHELLS {
        let given = script(shell, &pod, &token, &[]);
        let mut command = Command::new("sh");
        let words = shell.join(" ");
        command.args(["-c", &format!("{words} {SCRIPT} a sh -c 'cat; echo $?' <&-")]);
        command.envs(given.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran = command.output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "1\n", "{shell:?}");
    }
}
