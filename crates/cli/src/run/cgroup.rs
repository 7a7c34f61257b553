//! An optional control group (cgroup v2) for the command, where this user may create one: as root or
//! with systemd's delegation.
//!
//! A kill of the cgroup reaches processes that signals miss: those of other users, and those that
//! fork faster than `/proc` can be read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{errno::Errno, unistd::Pid};

use crate::signals;

/// The mount points of cgroup v2: without and with v1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// See clone3(2).
#[cfg(target_os = "linux")]
const CLONE_INTO_CGROUP: u64 = 1 << 33;

const PREFIX: &str = "lockable-";
const REMOVAL_TRIES: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(1);

/// A control group. Dropping this value removes it.
#[derive(Debug)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// Creates the cgroup of the watchdog with this process id.
    pub fn create(pid: i32) -> Option<Self> {
        let path = path(pid)?;
        remove_abandoned(path.parent()?);
        fs::create_dir(&path).ok()?;
        let created = Self(path);
        // Kernels before 5.14 lack this file.
        created.0.join("cgroup.kill").exists().then_some(created)
    }

    /// Opens the cgroup of the watchdog with this process id.
    pub fn of(pid: i32) -> Option<Self> {
        path(pid).filter(|path| path.is_dir()).map(Self)
    }

    /// Kills every process of the cgroup and its descendants, of any user.
    pub fn kill(&self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
    }

    /// Forks a child into the cgroup. Returns the child's process id in the parent, and `None` in the
    /// child. This process must have one thread. Moving a process into a cgroup takes milliseconds;
    /// forking into it takes no extra time.
    ///
    /// # Errors
    /// When the kernel or a sandbox does not permit it.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "no function of the C library forks into a control group")]
    pub fn fork(&self) -> io::Result<Option<Pid>> {
        use std::os::fd::AsRawFd;

        use nix::libc;

        let folder = fs::File::open(&self.0)?;
        // SAFETY: without CLONE_VM and a new stack this call is equivalent to fork(2), and this process
        // has one thread. Every bit pattern of `clone_args` is valid.
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

/// Removes a cgroup and its children, which nested runs leave behind.
fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    // The last process leaves the cgroup shortly after the wait for it returns.
    for _ in 0..REMOVAL_TRIES {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => pause(),
            _ => return,
        }
    }
}

/// Removes empty cgroups of killed watchdogs. This may remove a new cgroup of a run in another PID
/// namespace, which then runs without a cgroup.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if pid.is_some_and(|pid| signals::send(pid, 0) == Err(Errno::ESRCH)) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the process has no other work at its end")]
fn pause() {
    std::thread::sleep(REMOVAL_PAUSE);
}

/// A path below the cgroup of this process.
fn path(pid: i32) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    // The path of a cgroup outside this namespace begins with `/..`.
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).filter(|own| !own.contains(".."))?;
    let mount = MOUNTS.into_iter().find(|mount| Path::new(mount).join("cgroup.procs").exists())?;
    Some(Path::new(mount).join(own).join(format!("{PREFIX}{pid}")))
}
