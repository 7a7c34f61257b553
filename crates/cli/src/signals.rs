//! Signals: catching them with their origin, stopping by one, and sending one.

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

use crate::exit::{raise_unblocked, set_default};

/// Faults of the program itself. After a handler returns, the faulty instruction would repeat.
const FAULTS: [i32; 6] = [libc::SIGILL, libc::SIGFPE, libc::SIGSEGV, libc::SIGBUS, libc::SIGTRAP, libc::SIGSYS];

/// All possible signal numbers; the system rejects the unused ones.
const NUMBERS: std::ops::RangeInclusive<i32> = 1..=64;

/// The socket that [`handle_signal`] writes to.
static SINK: AtomicI32 = AtomicI32::new(-1);

/// A signal that this process caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CaughtSignal {
    pub number: i32,
    pub is_from_kernel: bool,
}

impl CaughtSignal {
    fn to_bytes(self) -> [u8; 2] {
        [self.number as u8, self.is_from_kernel.into()]
    }

    pub fn from_bytes([number, is_from_kernel]: [u8; 2]) -> Self {
        Self { number: number.into(), is_from_kernel: is_from_kernel != 0 }
    }

    /// Whether the terminal sent it to all processes of the foreground group. The kernel also sends
    /// signals to one process only, such as SIGALRM.
    pub fn is_from_terminal(self) -> bool {
        let of_terminals = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGWINCH];
        self.is_from_kernel && (of_terminals.contains(&self.number) || is_stop(self.number))
    }

    /// Whether a repetition of this signal asks for an end at once. A hang-up is excluded, because it
    /// arrives twice: from the shell, and from the kernel when the shell ends.
    pub fn is_urgent(self) -> bool {
        self.is_ending() && self.number != libc::SIGHUP
    }

    /// Whether its default action ends the process.
    pub fn is_ending(self) -> bool {
        !is_stop(self.number) && ![libc::SIGCHLD, libc::SIGCONT, libc::SIGWINCH].contains(&self.number)
    }
}

/// Whether its default action stops the process. SIGSTOP is missing: it cannot be caught.
pub(super) fn is_stop(number: i32) -> bool {
    [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&number)
}

/// Blocks all signals. Returns the previous mask.
pub(super) fn block() -> io::Result<SigSet> {
    Ok(SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?)
}

/// Catches all signals except those that the caller has set to be ignored, as `nohup` does with
/// SIGHUP, and restores the mask from before [`block`]. Each read of the returned socket yields the
/// two bytes of a [`CaughtSignal`].
///
/// SIGCHLD is caught even if the caller ignored or blocked it, as some CI runners do: otherwise the
/// status of a child would be lost.
pub(super) fn catch(mask: &SigSet) -> io::Result<UnixStream> {
    let (source, sink) = UnixStream::pair()?;
    // A signal handler must not block.
    sink.set_nonblocking(true)?;
    source.set_nonblocking(true)?;
    SINK.store(sink.into_raw_fd(), Ordering::Relaxed);
    for number in NUMBERS.filter(|number| !FAULTS.contains(number) && *number != libc::SIGURG) {
        if number == libc::SIGCHLD || action(number) == Some(libc::SIG_DFL) {
            set_action(number, handle_signal as *const () as libc::sighandler_t);
        }
    }
    let mut mask = *mask;
    mask.remove(nix::sys::signal::Signal::SIGCHLD);
    mask.thread_set_mask()?;
    Ok(source)
}

/// The caught signals of this process.
pub(super) struct Signals {
    source: tokio::net::UnixStream,
    same: UnixStream,
}

impl Signals {
    /// Must be called within a runtime.
    pub fn new(source: UnixStream) -> io::Result<Self> {
        let same = source.try_clone()?;
        Ok(Self { source: tokio::net::UnixStream::from_std(source)?, same })
    }

    /// Catches the signals of a process that has not called [`block`]. Must be called within a runtime.
    pub fn listen() -> io::Result<Self> {
        catch(&SigSet::thread_get_mask()?).and_then(Self::new)
    }

    pub async fn next(&mut self) -> CaughtSignal {
        let mut bytes = [0; 2];
        loop {
            let _ = self.source.readable().await;
            if let Ok(2) = self.source.try_read(&mut bytes) {
                return CaughtSignal::from_bytes(bytes);
            }
        }
    }

    /// Discards the signals so far: the Ctrl-C that ended the command does not count as a second one.
    pub fn discard(&mut self) {
        let mut bytes = [0; 64];
        while (&self.same).read(&mut bytes).is_ok_and(|length| length > 0) {}
    }

    /// Returns the next signal that asks for an end. Meanwhile, stop signals stop this process.
    pub async fn ending(&mut self) -> i32 {
        self.next_where(CaughtSignal::is_ending).await
    }

    /// Like [`ending`](Self::ending), for a repeated signal that asks for an end at once.
    pub async fn urgent(&mut self) -> i32 {
        self.next_where(CaughtSignal::is_urgent).await
    }

    async fn next_where(&mut self, matches: fn(CaughtSignal) -> bool) -> i32 {
        loop {
            let caught = self.next().await;
            if is_stop(caught.number) {
                stop_by(caught.number);
            } else if matches(caught) {
                return caught.number;
            }
        }
    }
}

/// Stops this process by the default action of a signal: a shell sees the signal's number, and the
/// kernel ignores it in an orphaned process group. Returns when the process continues.
pub(super) fn stop_by(number: i32) {
    let handler = action(number);
    set_default(number);
    raise_unblocked(number);
    if let Some(handler) = handler {
        set_action(number, handler);
    }
}

/// Sends a signal, including real-time signals.
///
/// # Errors
/// `EPERM` when the process belongs to another user, `ESRCH` when it does not exist.
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

/// The signal handler. It calls async-signal-safe functions only.
extern "C" fn handle_signal(number: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let errno = Errno::last_raw();
    let caught = CaughtSignal { number, is_from_kernel: is_from_kernel(info) };
    if caught.is_from_kernel && is_stop(number) {
        // The terminal stops the command, too. The shell regains the terminal only when every process
        // of the job has stopped.
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
    // SAFETY: the pointer and the length are of one slice. A full socket drops the signal; it holds
    // thousands.
    unsafe { libc::write(SINK.load(Ordering::Relaxed), bytes.as_ptr().cast(), bytes.len()) };
}

/// The action of a signal; `None` if the system has no such signal.
#[expect(unsafe_code, reason = "nix has no function that only reads the action")]
fn action(number: i32) -> Option<libc::sighandler_t> {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `old` is as large as the kernel expects, and every bit pattern of it is valid.
    let (result, old) = unsafe { (libc::sigaction(number, ptr::null(), old.as_mut_ptr()), old.assume_init()) };
    (result == 0).then_some(old.sa_sigaction)
}

#[expect(unsafe_code, reason = "nix knows no real-time signals")]
fn set_action(number: i32, handler: libc::sighandler_t) {
    // SAFETY: the handler is a default action or `handle_signal`, which is async-signal-safe. The mask is
    // empty: zeroed memory is an empty mask on every system.
    unsafe {
        let mut new = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        new.sa_sigaction = handler;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(number, &raw const new, ptr::null_mut());
    }
}
