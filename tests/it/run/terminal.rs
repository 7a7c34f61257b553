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
type(os.environ["RUN"] + " busy -- true\n", "waiting for busy, held by another (on purpose) since")
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
    run_shell(&format!("{} RUN='{program} run' python3 {}", variables.join(" "), script.path().display())).await;
}
