//! A control group (cgroup v2) for the command, where this user may make one: with systemd's
//! delegation, or as root.
//!
//! It ends what signals cannot: processes of other users, and processes that fork faster than
//! anybody can look. Everything works without it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{errno::Errno, unistd::Pid};

use super::signals;

/// Where cgroup v2 is mounted, alone or beside v1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// See clone3(2).
#[cfg(target_os = "linux")]
const CLONE_INTO_CGROUP: u64 = 1 << 33;

const PREFIX: &str = "lockable-";
const REMOVAL_TRIES: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(1);

/// The control group, which is removed with this value.
#[derive(Debug)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one for what the process with this id starts.
    pub fn make(pid: i32) -> Option<Self> {
        let path = path(pid)?;
        remove_abandoned(path.parent()?);
        fs::create_dir(&path).ok()?;
        let made = Self(path);
        // Kernels before 5.14 have none.
        made.0.join("cgroup.kill").exists().then_some(made)
    }

    /// The one that another process has made.
    pub fn of(pid: i32) -> Option<Self> {
        path(pid).filter(|path| path.is_dir()).map(Self)
    }

    /// Kills every process of the cgroup and its descendants, of any user.
    pub fn kill(&self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
    }

    /// Forks into it. Returns the child's process id in the parent, and nothing in the child. To
    /// be called while this process has one thread. Moving a process takes milliseconds, this none.
    ///
    /// # Errors
    /// When the kernel or a sandbox does not permit it.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "no function of the C library forks into a control group")]
    pub fn fork(&self) -> io::Result<Option<Pid>> {
        use std::os::fd::AsRawFd;

        use nix::libc;

        let folder = fs::File::open(&self.0)?;
        // SAFETY: without a stack of its own and shared memory the child is as after fork(2), and
        // this process has one thread. Every bit pattern of `clone_args` is valid.
        let pid = unsafe {
            let mut arguments = std::mem::zeroed::<libc::clone_args>();
            arguments.flags = CLONE_INTO_CGROUP;
            arguments.exit_signal = libc::SIGCHLD as u64;
            arguments.cgroup = folder.as_raw_fd() as u64;
            libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())
        };
        let pid = Errno::result(pid)? as i32;
        Ok((pid != 0).then(|| Pid::from_raw(pid)))
    }

    #[cfg(not(target_os = "linux"))]
    pub fn fork(&self) -> io::Result<Option<Pid>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes it and those below it, which a run within the command has left.
fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    // The last process leaves it a moment after it was waited for.
    for _ in 0..REMOVAL_TRIES {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => pause(),
            _ => return,
        }
    }
}

/// Removes empty ones of watchdogs that were killed. One that is just being made may be among
/// them, if it is of another process namespace: then that run goes without.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if pid.is_some_and(|pid| signals::send(pid, 0) == Err(Errno::ESRCH)) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the end of the process, after all that it had to do")]
fn pause() {
    std::thread::sleep(REMOVAL_PAUSE);
}

/// Below the control group of this process.
fn path(pid: i32) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    // One outside this namespace begins with `/..`.
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).filter(|own| !own.contains(".."))?;
    let mount = MOUNTS.into_iter().find(|mount| Path::new(mount).join("cgroup.procs").exists())?;
    Some(Path::new(mount).join(own).join(format!("{PREFIX}{pid}")))
}
