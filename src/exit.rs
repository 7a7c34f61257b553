//! How the process ends, and standard output that may be closed or full.

#![expect(clippy::print_stderr, reason = "the last message of the process goes to its user")]

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use rlimit::{Resource, setrlimit};

/// `EX_IOERR` of sysexits.h: standard output cannot be written.
const OUTPUT_FAILED: u8 = 74;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    /// Dies of the signal as if it had not been caught, so that a shell ends its loop or script, too.
    Signal(Signal),
}

impl Exit {
    pub const SUCCESS: Self = Self::Code(0);
    pub const FAILURE: Self = Self::Code(1);

    /// Dies of the signal, or returns the exit code.
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
/// How the process must end when the output is lost: of SIGPIPE without a message if the reader
/// has closed the pipe, as `cat` does; otherwise after a message.
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

/// How the process must end after this error on standard output; prints a message for it.
pub fn unwritten(error: &io::Error) -> Exit {
    if error.kind() == ErrorKind::BrokenPipe {
        return Exit::Signal(Signal::SIGPIPE);
    }
    eprintln!("lockable: standard output cannot be written: {error}");
    Exit::Code(OUTPUT_FAILED)
}

/// Dies of a signal. If the signal has no effect, as in the first process of a container, returns
/// the exit code that a shell reports for it.
fn die_of(signal_number: Signal) -> ExitCode {
    // A core dump would contain the token.
    let _ = setrlimit(Resource::CORE, 0, 0);
    set_default(signal_number);
    let _ = SigSet::from(signal_number).thread_unblock();
    let _ = raise(signal_number);
    ExitCode::from(128 + signal_number as u8)
}

#[expect(unsafe_code, reason = "the disposition of a signal belongs to the whole process")]
fn set_default(signal_number: Signal) {
    // SAFETY: the default action runs no code of this process.
    let _ = unsafe { signal(signal_number, SigHandler::SigDfl) };
}
