//! The files of one case: its programs and their output.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    case::{Case, Event, Phase, Program, Shape, Shell},
    processes::INNER,
};

/// The programs in C, compiled once.
pub struct Programs(tempfile::TempDir);

impl Programs {
    pub fn compile() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["job", "pager"] {
            let source = format!("{}/tests/it/terminal/{name}.c", env!("CARGO_MANIFEST_DIR"));
            let mut compiler = Command::new("cc");
            compiler.args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(folder.path().join(name)).arg(source);
            assert!(compiler.status().unwrap().success(), "{name}.c does not compile");
        }
        Self(folder)
    }
}

pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Writes the scripts. `outer` and `inner` are the wrappers' command lines, before the command.
    pub fn new(case: Case, programs: &Programs, outer: &str, inner: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in ["job", "pager"] {
            fs::hard_link(programs.0.path().join(name), folder.path().join(name)).unwrap();
        }
        let asking = if case.shape == Shape::Asking { " asking" } else { "" };
        let command = match case.program {
            Program::Plain => format!("exec ./job{asking}"),
            Program::Stubborn => format!("exec ./job stubborn{asking}"),
            Program::Grouped => format!("exec timeout 60 ./job{asking}"),
            Program::Forked => format!("setsid ./job{asking} &\nwait $!"),
            Program::Nested => format!("export {INNER}=1\nexec {inner} ./job{asking}"),
        };
        folder.script("lock", "sh", &format!("echo $$ >wrapper.pid\nexec {outer} \"$@\""));
        folder.script("command", "sh", &format!("echo $$ >command.pid\n{command}"));
        folder.script("script", case.shell.program(), "./lock ./command\necho \"next=$?\"");
        fs::write(folder.path().join("Makefile"), "all:\n\t@./lock ./command\n\t@echo next=made\n").unwrap();
        folder
    }

    fn script(&self, name: &str, shell: &str, text: &str) {
        let path = self.path().join(name);
        fs::write(&path, format!("#!/usr/bin/env {shell}\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn lock_file(&self) -> PathBuf {
        self.path().join("held")
    }

    /// The times at which the command has written.
    pub fn times(&self) -> Vec<u64> {
        let text = fs::read_to_string(self.path().join("log")).unwrap_or_default();
        // The last line may be incomplete.
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect()
    }

    /// Makes the command exit with this code; a failure code is used once.
    pub fn finish(&self, code: u8) {
        let new = self.path().join("finish.new");
        fs::write(&new, format!("{code}\n")).unwrap();
        fs::rename(new, self.path().join("finish")).unwrap();
    }
}

impl Shell {
    pub fn program(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Dash => "dash",
        }
    }

    fn interactive(self) -> &'static [&'static str] {
        match self {
            Self::Bash => &["bash", "--norc", "--noprofile", "-i"],
            Self::Zsh => &["zsh", "-f", "-i", "-o", "no_prompt_sp", "-o", "no_prompt_cr"],
            Self::Dash => &["dash", "-i"],
        }
    }
}

/// The command line that starts the session of a case.
pub fn words(case: Case) -> Vec<&'static str> {
    match case.has_prompt() {
        true => case.shell.interactive().to_vec(),
        false => vec![case.shell.program(), "-c", line(case.shape)],
    }
}

/// A plain case, for tests that need only the files.
pub fn plain() -> Case {
    Case { shell: Shell::Bash, shape: Shape::Alone, program: Program::Plain, phase: Phase::Holding, event: Event::End }
}

/// The line that is typed, or run by a non-interactive shell.
pub fn line(shape: Shape) -> &'static str {
    match shape {
        Shape::Alone => "./lock ./command",
        Shape::Script => "./script",
        Shape::For => "for i in 1 2; do ./lock ./command; echo \"next=$?\"; done",
        Shape::Until => "until ./lock ./command; do echo \"next=$?\"; done",
        Shape::Make => "make",
        Shape::Into => "./lock ./command | cat",
        Shape::Pager => "./lock ./command | ./pager",
        Shape::From | Shape::Asking => "echo data | ./lock ./command",
        Shape::Background => "./lock ./command &",
        Shape::Redirected => "./lock ./command </dev/null",
        Shape::NoJobControl | Shape::Cron => "./lock ./command; echo \"next=$?\"",
        Shape::Leader => "exec ./lock ./command",
        Shape::First => "unshare --pid --fork --mount-proc ./lock ./command",
    }
}
