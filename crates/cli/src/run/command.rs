//! The process that becomes the command.
//!
//! The watchdog forks it while it is still in the caller's process group and session. The command
//! stays there, and gets the terminal, Ctrl-C and Ctrl-Z as if the caller had started it.

use std::{
    convert::Infallible,
    env,
    ffi::{CString, OsString},
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::{ffi::OsStrExt, net::UnixStream},
};

use nix::{errno::Errno, libc, sys::signal::SigSet, unistd::execvp};

use super::{
    cgroup::Cgroup,
    inherited::{self, exit, fork},
};
use crate::exit::set_default;

/// The watchdog's handle of the command.
#[derive(Debug)]
pub(super) struct CommandProcess {
    pub pid: i32,
    /// Connection to the forked process until it executes the command.
    channel: Option<UnixStream>,
}

/// The forked process before it executes the command.
pub(super) struct PreExecProcess(UnixStream);

/// The two sides of a fork.
pub(super) enum Fork {
    Parent(CommandProcess),
    Child(PreExecProcess),
}

impl CommandProcess {
    /// Forks the process, into the cgroup if there is one. With `dies_with_parent` the kernel kills
    /// it when its parent dies; on Linux only.
    pub fn fork(mask: &SigSet, cgroup: Option<&Cgroup>, dies_with_parent: bool) -> io::Result<Fork> {
        let (ours, theirs) = UnixStream::pair()?;
        #[cfg(target_os = "linux")]
        let parent = nix::unistd::getpid();
        let forked = cgroup.and_then(|cgroup| cgroup.fork().ok());
        if let Some(pid) = forked.map_or_else(fork, Ok)? {
            ours.set_nonblocking(true)?;
            return Ok(Fork::Parent(Self { pid: pid.as_raw(), channel: Some(ours) }));
        }
        #[cfg(target_os = "linux")]
        if dies_with_parent {
            let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
            if nix::unistd::getppid() != parent {
                exit(1);
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = dies_with_parent;
        // A caller that ignores SIGCHLD would lose the status of the command's children.
        set_default(libc::SIGCHLD);
        let _ = mask.thread_set_mask();
        Ok(Fork::Child(PreExecProcess(theirs)))
    }

    /// Makes the process execute the command with these additional variables.
    pub fn start(&mut self, environment: &[(String, String)]) {
        if let Some(channel) = &mut self.channel {
            let _ = channel.write_all(&serde_json::to_vec(environment).unwrap_or_default());
            let _ = channel.shutdown(Shutdown::Write);
        }
    }

    /// The error of a failed execution, once it has arrived.
    pub fn failure(&mut self) -> Option<Errno> {
        let mut number = [0; 4];
        match self.channel.as_mut()?.read(&mut number) {
            Ok(4) => {
                self.channel = None;
                Some(Errno::from_raw(i32::from_ne_bytes(number)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // A successful exec has closed the connection.
            _ => {
                self.channel = None;
                None
            }
        }
    }

    pub fn channel(&self) -> Option<&UnixStream> {
        self.channel.as_ref()
    }
}

impl PreExecProcess {
    /// Waits for [`CommandProcess::start`], and executes the command. Exits if the watchdog dies
    /// first.
    pub fn become_command(mut self, words: &[OsString]) -> ! {
        inherited::set_title("lockable command");
        let mut text = Vec::new();
        let read = self.0.read_to_end(&mut text);
        let environment: Option<Vec<(String, String)>> = serde_json::from_slice(&text).ok();
        let (Ok(_), Some(environment)) = (read, environment) else { exit(1) };
        for (name, value) in &environment {
            set_variable(name, value);
        }
        inherited::restore();
        let Err(error) = execute(words);
        let _ = self.0.write_all(&(error as i32).to_ne_bytes());
        exit(126)
    }
}

#[expect(unsafe_code, reason = "another thread could read the environment concurrently")]
fn set_variable(name: &str, value: &str) {
    // SAFETY: a process that was just forked has one thread.
    unsafe { env::set_var(name, value) };
}

/// Executes a program like execvp(3): searches `PATH`, and uses `/bin/sh` for a script without `#!`.
fn execute(words: &[OsString]) -> Result<Infallible, Errno> {
    let words: Result<Vec<_>, _> = words.iter().map(|word| CString::new(word.as_bytes())).collect();
    let words = words.map_err(|_| Errno::EINVAL)?;
    let program = words.first().ok_or(Errno::EINVAL)?;
    match execvp(program, &words) {
        // glibc does this itself, other C libraries do not.
        Err(Errno::ENOEXEC) if program.as_bytes().contains(&b'/') => {
            let shell = [c"/bin/sh".to_owned()];
            execvp(c"/bin/sh", &[&shell, words.as_slice()].concat())
        }
        failed => failed,
    }
}
