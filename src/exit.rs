//! How the process ends, and standard output that may be closed or full.

#![expect(clippy::print_stderr, reason = "the last message of a process is for the person who runs it")]

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use rlimit::{Resource, setrlimit};

/// `EX_IOERR` of sysexits.h: the output could not be written.
const OUTPUT_FAILED: u8 = 74;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    /// As if the signal had not been caught: a shell then ends its loop or script, too.
    Signal(Signal),
}

impl Exit {
    pub const SUCCESS: Self = Self::Code(0);
    pub const FAILURE: Self = Self::Code(1);

    /// Ends the process if it ends by a signal, else returns its exit code.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Code(code) => ExitCode::from(code),
            Self::Signal(signal) => die_of(signal),
        }
    }
}

/// Writes a text to standard output.
///
/// # Errors
/// How the process is to end when the output is lost: silently of SIGPIPE when the reader is gone
/// any more, as `cat` does; otherwise after a message.
pub fn print(text: &str) -> Result<(), Exit> {
    print_bytes(text.as_bytes())
}

/// Writes bytes to standard output, like [`print()`].
///
/// # Errors
/// See [`print()`].
pub fn print_bytes(bytes: &[u8]) -> Result<(), Exit> {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(|error| unwritten(&error))
}

/// How a process ends that could not write its output for this reason.
pub fn unwritten(error: &io::Error) -> Exit {
    if error.kind() == ErrorKind::BrokenPipe {
        return Exit::Signal(Signal::SIGPIPE);
    }
    eprintln!("lockable: standard output cannot be written: {error}");
    Exit::Code(OUTPUT_FAILED)
}

/// Ends the process with a signal. Returns the code that a shell has for it when the signal is
/// blocked from outside and does not end the process.
fn die_of(ending: Signal) -> ExitCode {
    // The memory of this process has the token in it.
    let _ = setrlimit(Resource::CORE, 0, 0);
    set_default(ending);
    let _ = SigSet::from(ending).thread_unblock();
    let _ = raise(ending);
    ExitCode::from(128 + ending as u8)
}

#[expect(unsafe_code, reason = "the disposition of a signal belongs to the whole process")]
fn set_default(ending: Signal) {
    // SAFETY: the default action runs no code of this process.
    let _ = unsafe { signal(ending, SigHandler::SigDfl) };
}
