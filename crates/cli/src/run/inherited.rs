//! State that this process inherited and Rust's runtime changes before `main`, and its title in `ps`.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering},
};

use nix::{
    libc,
    unistd::{ForkResult, Pid},
};

/// One bit for each of the file descriptors 0, 1 and 2 that was closed. Rust's runtime opens
/// `/dev/null` instead before `main`.
static CLOSED: AtomicU8 = AtomicU8::new(0);
/// Whether SIGPIPE was ignored. Rust's runtime ignores it before `main`.
static IGNORES_PIPE: AtomicBool = AtomicBool::new(false);
/// Address and total length of the arguments that `ps` shows.
static ARGUMENTS: AtomicPtr<libc::c_char> = AtomicPtr::new(std::ptr::null_mut());
static ARGUMENTS_LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Runs before Rust's runtime.
#[used]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".init_array"))]
#[expect(unsafe_code, reason = "only a constructor runs before Rust's runtime")]
static AT_START: extern "C" fn(libc::c_int, *const *mut libc::c_char) = record_start_state;

#[expect(unsafe_code, reason = "std has no function for any of this before main")]
extern "C" fn record_start_state(count: libc::c_int, arguments: *const *mut libc::c_char) {
    let mut closed = 0;
    for file in 0..3 {
        // SAFETY: F_GETFD only reads flags, and reports a closed descriptor as an error.
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
    // Only glibc passes the arguments to constructors.
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

/// Sets the title that `ps` shows instead of the arguments, so that `pgrep -f` and `pkill -f` do not
/// match a run twice.
#[expect(unsafe_code, reason = "the kernel reads the title from the memory of the arguments")]
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

/// Restores the inherited state before another program is executed.
#[expect(unsafe_code, reason = "std does not close its standard streams")]
pub(super) fn restore() {
    if !IGNORES_PIPE.load(Ordering::Relaxed) {
        crate::exit::set_default(libc::SIGPIPE);
    }
    for file in (0..3).filter(|file| CLOSED.load(Ordering::Relaxed) & (1 << file) != 0) {
        // SAFETY: this process does not use the descriptor before it executes the program.
        unsafe { libc::close(file) };
    }
}

/// Forks. Returns the child's process id in the parent, and `None` in the child. This process must
/// have one thread.
#[expect(unsafe_code, reason = "fork is unsafe in a process with several threads")]
pub(super) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: this process has one thread, so no other thread holds a lock that the child needs.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Ends a forked process without running the exit handlers of its parent.
#[expect(unsafe_code, reason = "std's exit runs the exit handlers of the parent")]
pub(super) fn exit(code: u8) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(code.into()) }
}
