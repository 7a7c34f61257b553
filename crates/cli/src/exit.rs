//! How the process ends, and standard output that may be closed or full.

#![expect(clippy::print_stderr, reason = "the last message of the process goes to its user")]

use std::{
    io::{self, ErrorKind, Write},
    mem::MaybeUninit,
    process::ExitCode,
    ptr,
};

use nix::libc;
use rlimit::{Resource, getrlimit, setrlimit};

/// `EX_IOERR` of sysexits.h: standard output cannot be written.
const OUTPUT_FAILED: u8 = 74;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(u8),
    /// Dies of the signal with this number as if it had not been caught, so that a shell ends its loop
    /// or script, too.
    Signal(i32),
}

impl Exit {
    pub const SUCCESS: Self = Self::Code(0);
    pub const FAILURE: Self = Self::Code(1);

    /// Dies of the signal, or returns the exit code.
    pub fn report(self) -> ExitCode {
        match self {
            Self::Code(code) => ExitCode::from(code),
            Self::Signal(number) => die_of(number),
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
        return Exit::Signal(libc::SIGPIPE);
    }
    eprintln!("lockable: standard output cannot be written: {error}");
    Exit::Code(OUTPUT_FAILED)
}

/// Dies of a signal without a core dump, which would contain the token and replace the dump of a
/// command. If the signal has no effect, as in the first process of a container, returns the exit
/// code that a shell reports for it.
fn die_of(number: i32) -> ExitCode {
    if let Ok((_, hard)) = getrlimit(Resource::CORE) {
        let _ = setrlimit(Resource::CORE, 0, hard);
    }
    set_default(number);
    raise_unblocked(number);
    ExitCode::from(128 + number as u8)
}

/// Restores the default action of a signal. Async-signal-safe.
#[expect(unsafe_code, reason = "nix knows no real-time signals")]
pub(crate) fn set_default(number: i32) {
    // SAFETY: the default action runs no code of this process.
    unsafe { libc::signal(number, libc::SIG_DFL) };
}

/// Raises a signal in this thread, even within its own handler, and restores the mask.
/// Async-signal-safe.
#[expect(unsafe_code, reason = "nix knows no real-time signals")]
pub(crate) fn raise_unblocked(number: i32) {
    let mut signal = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut old = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: all pointers are of local variables, and the functions are async-signal-safe.
    unsafe {
        libc::sigemptyset(signal.as_mut_ptr());
        libc::sigaddset(signal.as_mut_ptr(), number);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, signal.as_ptr(), old.as_mut_ptr());
        libc::raise(number);
        libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), ptr::null_mut());
    }
}
