//! Signals: catching all of them with their origin, stopping, and dying of one.

use std::{
    io::{self, Read},
    mem::MaybeUninit,
    os::{fd::IntoRawFd, unix::net::UnixStream},
    ptr,
    sync::atomic::{AtomicI32, Ordering},
};

use nix::{
    errno::Errno,
    libc,
    sys::signal::{SigSet, SigmaskHow},
};

/// Faults of the program itself. Catching them would repeat the faulty instruction for ever.
const FAULTS: [i32; 6] = [libc::SIGILL, libc::SIGFPE, libc::SIGSEGV, libc::SIGBUS, libc::SIGTRAP, libc::SIGSYS];

/// The numbers of all signals that a system may have; it rejects the others.
const NUMBERS: std::ops::RangeInclusive<i32> = 1..=64;

/// The socket that [`note`] writes to.
static SINK: AtomicI32 = AtomicI32::new(-1);

/// A signal that this process caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caught {
    pub number: i32,
    pub is_from_kernel: bool,
}

impl Caught {
    fn to_bytes(self) -> [u8; 2] {
        [self.number as u8, self.is_from_kernel.into()]
    }

    pub fn from_bytes([number, is_from_kernel]: [u8; 2]) -> Self {
        Self { number: number.into(), is_from_kernel: is_from_kernel != 0 }
    }

    /// Whether the terminal sent it: then every process of the foreground group has it already.
    /// The kernel also sends signals to one process alone, such as SIGALRM.
    pub fn is_from_terminal(self) -> bool {
        let of_terminals = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGWINCH];
        self.is_from_kernel && (of_terminals.contains(&self.number) || is_stop(self.number))
    }

    /// Whether somebody has asked once more for an end. A hang-up comes twice by itself: from the
    /// shell, and from the kernel when the shell ends.
    pub fn is_urgent(self) -> bool {
        self.is_ending() && self.number != libc::SIGHUP
    }

    /// Whether it ends a process that does not catch it.
    pub fn is_ending(self) -> bool {
        !is_stop(self.number) && ![libc::SIGCHLD, libc::SIGCONT, libc::SIGWINCH].contains(&self.number)
    }
}

/// Whether it stops a process that does not catch it. SIGSTOP cannot be caught.
pub(super) fn is_stop(number: i32) -> bool {
    [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&number)
}

/// Blocks all signals. Returns the mask of before.
pub(super) fn block() -> io::Result<SigSet> {
    Ok(SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?)
}

/// Catches every signal that is not ignored, as `nohup` has SIGHUP ignored, and restores the mask
/// of before [`block`]. Each read of the returned socket yields the two bytes of a [`Caught`].
///
/// SIGCHLD is caught even if the caller ignored or blocked it, as some CI runners do: the status
/// of a child would be lost.
pub(super) fn catch(mask: &SigSet) -> io::Result<UnixStream> {
    let (source, sink) = UnixStream::pair()?;
    // A handler must not wait.
    sink.set_nonblocking(true)?;
    source.set_nonblocking(true)?;
    SINK.store(sink.into_raw_fd(), Ordering::Relaxed);
    for number in NUMBERS.filter(|number| !FAULTS.contains(number) && *number != libc::SIGURG) {
        if number == libc::SIGCHLD || action(number) == Some(libc::SIG_DFL) {
            set_action(number, note as *const () as libc::sighandler_t);
        }
    }
    let mut mask = *mask;
    mask.remove(nix::sys::signal::Signal::SIGCHLD);
    mask.thread_set_mask()?;
    Ok(source)
}

/// The signals that this process has caught, for `lockable run`.
pub(super) struct Signals {
    source: tokio::net::UnixStream,
    same: UnixStream,
}

impl Signals {
    /// To be called within a runtime.
    pub fn new(source: UnixStream) -> io::Result<Self> {
        let same = source.try_clone()?;
        Ok(Self { source: tokio::net::UnixStream::from_std(source)?, same })
    }

    pub async fn next(&mut self) -> Caught {
        let mut bytes = [0; 2];
        loop {
            let _ = self.source.readable().await;
            if let Ok(2) = self.source.try_read(&mut bytes) {
                return Caught::from_bytes(bytes);
            }
        }
    }

    /// Forgets those of until now: the Ctrl-C that has ended the command is not a second one.
    pub fn discard(&mut self) {
        let mut bytes = [0; 64];
        while (&self.same).read(&mut bytes).is_ok_and(|length| length > 0) {}
    }

    /// The next that asks this process to end at once. Those that stop it do so.
    pub async fn urgent(&mut self) -> i32 {
        loop {
            let caught = self.next().await;
            if is_stop(caught.number) {
                stop_by(caught.number);
            } else if caught.is_urgent() {
                return caught.number;
            }
        }
    }
}

/// Stops this process by a signal as if it did not catch it: a shell sees which one it was, and
/// the kernel ignores it in an orphaned process group. Returns when the process continues.
pub(super) fn stop_by(number: i32) {
    let handler = action(number);
    set_action(number, libc::SIG_DFL);
    raise_unblocked(number);
    if let Some(handler) = handler {
        set_action(number, handler);
    }
}

/// Dies of a signal, without a core dump: the command's is the one that matters. Returns the exit
/// code that a shell would report if the signal has no effect, as in the first process of a
/// container.
pub(super) fn die_of(number: i32) -> u8 {
    if let Ok((_, hard)) = rlimit::getrlimit(rlimit::Resource::CORE) {
        let _ = rlimit::setrlimit(rlimit::Resource::CORE, 0, hard);
    }
    set_action(number, libc::SIG_DFL);
    raise_unblocked(number);
    128 + number as u8
}

/// Gives a signal its default action, for a program that is about to be executed.
pub(super) fn set_default(number: i32) {
    set_action(number, libc::SIG_DFL);
}

/// Sends a signal. Unlike nix it knows real-time signals.
///
/// # Errors
/// `EPERM` when the process belongs to another user, `ESRCH` when there is none.
#[expect(unsafe_code, reason = "nix and rustix send no real-time signals")]
pub(super) fn send(pid: i32, number: i32) -> Result<(), Errno> {
    // SAFETY: kill touches no memory of ours.
    Errno::result(unsafe { libc::kill(pid, number) }).map(drop)
}

/// The name of a signal, such as `SIGTERM`.
pub(super) fn name(number: i32) -> String {
    let named = nix::sys::signal::Signal::try_from(number);
    named.map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// Runs in place of a signal's default action, and calls async-signal-safe functions only.
extern "C" fn note(number: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let errno = Errno::last_raw();
    let caught = Caught { number, is_from_kernel: is_from_kernel(info) };
    if caught.is_from_kernel && is_stop(number) {
        // The command stops at this moment, too. Each process that the shell waits for must stop.
        stop_by(number);
    } else {
        write(&caught.to_bytes());
    }
    Errno::set_raw(errno);
}

#[expect(unsafe_code, reason = "a signal handler is passed a pointer")]
fn is_from_kernel(info: *mut libc::siginfo_t) -> bool {
    // SAFETY: with SA_SIGINFO the kernel passes a valid pointer.
    let info = unsafe { &*info };
    #[cfg(target_os = "linux")]
    return info.si_code == libc::SI_KERNEL;
    #[cfg(not(target_os = "linux"))]
    return info.si_pid == 0;
}

#[expect(unsafe_code, reason = "std's writers are not meant for signal handlers")]
fn write(bytes: &[u8]) {
    // SAFETY: the pointer and the length are of one slice. When the socket is full the signal is
    // dropped: thousands wait in it.
    unsafe { libc::write(SINK.load(Ordering::Relaxed), bytes.as_ptr().cast(), bytes.len()) };
}

/// The handler of a signal, `None` if the system has no such signal.
#[expect(unsafe_code, reason = "nix has no function that only reads it")]
fn action(number: i32) -> Option<libc::sighandler_t> {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `old` is as large as the kernel expects, and every bit pattern of it is valid.
    let (result, old) = unsafe { (libc::sigaction(number, ptr::null(), old.as_mut_ptr()), old.assume_init()) };
    (result == 0).then_some(old.sa_sigaction)
}

#[expect(unsafe_code, reason = "nix knows no real-time signals")]
fn set_action(number: i32, handler: libc::sighandler_t) {
    // SAFETY: the handler is a default action or `note`, which is async-signal-safe. The mask is
    // empty, which a zeroed one is on every system.
    unsafe {
        let mut new = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        new.sa_sigaction = handler;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(number, &raw const new, ptr::null_mut());
    }
}

/// Raises a signal in this thread, also within its own handler, and then restores the mask.
#[expect(unsafe_code, reason = "nix knows no real-time signals")]
fn raise_unblocked(number: i32) {
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
