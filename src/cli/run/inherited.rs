//! What this process was started with and Rust's runtime hides, and how `ps` shows it.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering},
};

use nix::{
    libc,
    unistd::{ForkResult, Pid},
};

/// One bit for each of the file descriptors 0, 1 and 2 that was closed. Rust's runtime opens
/// `/dev/null` in its place before `main`.
static CLOSED: AtomicU8 = AtomicU8::new(0);
/// Whether SIGPIPE was ignored. Rust's runtime ignores it before `main`.
static IGNORES_PIPE: AtomicBool = AtomicBool::new(false);
/// Where the arguments are that `ps` shows, and how long they are together.
static ARGUMENTS: AtomicPtr<libc::c_char> = AtomicPtr::new(std::ptr::null_mut());
static ARGUMENTS_LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Runs before Rust's runtime.
#[used]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".init_array"))]
#[expect(unsafe_code, reason = "only a constructor runs before Rust's runtime")]
static AT_START: extern "C" fn(libc::c_int, *const *mut libc::c_char) = look;

#[expect(unsafe_code, reason = "std has no function for any of this before main")]
extern "C" fn look(count: libc::c_int, arguments: *const *mut libc::c_char) {
    let mut closed = 0;
    for file in 0..3 {
        // SAFETY: it reads the flags of a file descriptor, which may be closed.
        if unsafe { libc::fcntl(file, libc::F_GETFD) } == -1 {
            closed |= 1 << file;
        }
    }
    CLOSED.store(closed, Ordering::Relaxed);
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `old` is as large as the kernel expects, and every bit pattern of it is valid.
    let old = unsafe {
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), old.as_mut_ptr());
        old.assume_init()
    };
    IGNORES_PIPE.store(old.sa_sigaction == libc::SIG_IGN, Ordering::Relaxed);
    // Others than glibc pass no arguments to constructors.
    if cfg!(all(target_os = "linux", target_env = "gnu")) && count > 0 {
        // SAFETY: glibc passes the arguments of the process: `count` strings, one after another.
        unsafe {
            let (first, last) = (*arguments, *arguments.add(count as usize - 1));
            let end = last.add(libc::strlen(last));
            ARGUMENTS_LENGTH.store(end.offset_from(first).unsigned_abs(), Ordering::Relaxed);
            ARGUMENTS.store(first, Ordering::Relaxed);
        }
    }
}

/// Has `ps` show this instead of the arguments, so that `pgrep -f` and `pkill -f` do not find a
/// run twice.
#[expect(unsafe_code, reason = "the kernel reads the title from where the arguments are")]
pub(super) fn set_title(title: &str) {
    let (start, length) = (ARGUMENTS.load(Ordering::Relaxed), ARGUMENTS_LENGTH.load(Ordering::Relaxed));
    if start.is_null() {
        return;
    }
    let used = title.len().min(length);
    // SAFETY: the arguments are `length` writable bytes of this process, which has parsed them.
    unsafe {
        std::ptr::copy_nonoverlapping(title.as_ptr().cast(), start, used);
        std::ptr::write_bytes(start.add(used), 0, length - used);
    }
}

/// Restores what Rust's runtime has changed, for a program that is about to be executed.
#[expect(unsafe_code, reason = "std does not close its standard streams")]
pub(super) fn restore() {
    if !IGNORES_PIPE.load(Ordering::Relaxed) {
        super::signals::set_default(libc::SIGPIPE);
    }
    for file in (0..3).filter(|file| CLOSED.load(Ordering::Relaxed) & (1 << file) != 0) {
        // SAFETY: nothing is written to or read from it before the other program runs.
        unsafe { libc::close(file) };
    }
}

/// Forks. Returns the child's process id in the parent, and nothing in the child. To be called
/// while this process has one thread.
#[expect(unsafe_code, reason = "fork is unsafe in a process with several threads")]
pub(super) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: this process has one thread: no other one holds a lock that the child would wait for.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Ends a forked process without what its parent has registered for its own end.
#[expect(unsafe_code, reason = "std's exit runs what the parent has registered")]
pub(super) fn exit(code: u8) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(code.into()) }
}
