//! Job control in a terminal, as a shell has it.

use super::run;
use crate::support::{Pod, run_shell};

/// Types into a shell in a terminal of its own, and prints what that shows.
const TYPIST: &str = r#"
import os, pty, select, sys
pid, fd = pty.fork()
if pid == 0:
    os.environ["PS1"] = "$ "
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
shown = ""
def expect(words):
    global shown
    seen = ""
    while words not in seen:
        if not select.select([fd], [], [], 20)[0]:
            sys.exit(f"{words!r} did not come: {shown!r}")
        read = os.read(fd, 65536).decode(errors="replace")
        seen += read
        shown += read
def type(text, words):
    os.write(fd, text.encode())
    expect(words)
expect("$ ")
type("stty -echo; bind 'set enable-bracketed-paste off'\n", "$ ")
type(os.environ["RUN"] + " terminal -- sh -c 'echo begun; exec cat'\n", "begun")
type("typed\n", "typed")
type("\x1a", "Stopped")
type("echo $((6 * 7))\n", "42")
type("fg\n", "terminal")
type("again\n", "again")
type("\x03", "$ ")
type("echo code=$?\n", "code=130")
run = os.environ["RUN"]
def refuse(words):
    if words in shown:
        sys.exit(f"{words!r} came: {shown!r}")
# Ctrl-C ends scripts and loops, and Ctrl-Z stops them, whatever is redirected.
open(os.environ["SCRIPT"], "w").write(f"{run} inner -- sh -c 'echo begun; exec sleep 30'\necho went-on\n")
for job in [
    f"bash {os.environ['SCRIPT']}",
    f"for i in 1 2 3; do {run} inner -- sh -c 'echo begun; exec sleep 30'; echo went-on; done",
    f"{run} inner -- sh -c 'echo begun >&2; exec sleep 30' | cat",
    f"cat | {run} inner -- sh -c 'echo begun; exec sleep 30'",
]:
    type(job + "\n", "begun")
    type("\x03", "$ ")
    type("echo $((6 * 7))\n", "42")
    refuse("went-on")
for job in [
    f"bash {os.environ['SCRIPT']}",
    f"{run} inner -- sh -c 'echo begun >&2; exec sleep 30' | cat",
    f"{run} inner -- sh -c 'echo begun >&2; exec sleep 30' </dev/null >/dev/null",
]:
    type(job + "\n", "begun")
    type("\x1a", "Stopped")
    type("fg\n", "\n")
    # It may take a moment to be in the foreground.
    while not select.select([fd], [], [], 0.5)[0]:
        os.write(fd, b"\x03")
    type("\necho $((6 * 7))\n", "42")
    refuse("went-on")
# Whatever asks at the terminal gets an answer, and a pager pages.
type(f"echo | {run} inner -- sh -c 'echo begun; read x </dev/tty; echo got $x'\n", "begun")
type("secret\n", "got secret")
type(f"{run} inner -- sh -c 'seq 200; exec sleep 1' | less\n", ":")
type("q", "$ ")
# A command that the loss of the lock ends leaves the terminal as it was.
type(f"{run} --lease 2s lost -- sh -c 'stty raw; echo begun; exec sleep 30'; stty -a\n", "begun")
os.system(os.environ["BREAK"])
expect(" icanon")
type("\n", "$ ")
type(run + " busy -- true\n", "waiting for busy, held by another (on purpose) since")
expect("position 1 of 1, held by another (on")
type("\x03", "$ ")
type("echo code=$?\n", "code=130")
"#;

#[tokio::test]
async fn a_command_has_the_terminal_and_a_wait_is_shown_there() {
    let pod = Pod::start().await;
    let client = pod.client(&pod.first_token());
    let acquire = "/v1/acquire/busy?owner=another&note=on%20purpose";
    assert_eq!(client.get(acquire).await.json["response"], true);
    let command = run(&pod, &pod.first_token(), &[]);
    let variables: Vec<String> = command
        .as_std()
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}='{}'", name.to_str()?, value?.to_str()?)))
        .collect();
    let program = command.as_std().get_program().to_str().unwrap();
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), TYPIST).unwrap();
    let words = variables.join(" ");
    let inner = format!("{}.sh", script.path().display());
    let line = format!("{words} SCRIPT={inner} BREAK='{program} break lost' RUN='{program} run' python3");
    run_shell(&format!("{line} {}", script.path().display())).await;
    std::fs::remove_file(inner).unwrap();
}
