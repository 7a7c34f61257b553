//! Messages between `lockable run` and its watchdog: one JSON text per line.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::descendants::{ExitStatus, ProcessInfo};

/// From `lockable run` to its watchdog.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The lock is held until this time, in nanoseconds of a [`BootTime`](lockable_client::BootTime).
    /// The watchdog confirms it.
    Deadline(u64),
    /// Start the command.
    Start(StartOptions),
    /// Send the command a signal.
    Signal(i32),
    /// Send a stop signal or SIGCONT to all processes.
    SignalAll(i32),
    /// End all processes: SIGTERM at once, SIGKILL from this time, in nanoseconds.
    End(u64),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StartOptions {
    pub environment: Vec<(String, String)>,
    /// How long before the lease expires the command gets SIGTERM.
    pub kill_after_ms: u64,
    /// Time between SIGTERM and SIGKILL after a SIGTERM to `lockable run`, and for processes that remain
    /// after the command's end.
    pub grace_ms: u64,
}

/// From the watchdog to `lockable run`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The id of the process that becomes the command.
    Forked(i32),
    /// Confirms [`Order::Deadline`].
    DeadlineSet(u64),
    /// The command cannot be executed, with the errno.
    NotStarted(i32),
    /// The lease expired before the command was executed.
    Expired,
    /// The signal was not sent, because the command belongs to another user.
    NotSignaled(i32, ProcessInfo),
    /// The lease expires soon, and the watchdog ends the command.
    Ending,
    /// The command runs `--kill-after` after SIGTERM, and the watchdog kills all processes.
    Overdue,
    /// The command has ended.
    Ended(ExitStatus),
    /// All processes have ended; the watchdog exits.
    Gone,
    /// These processes cannot be ended; the watchdog exits.
    Left(Vec<ProcessInfo>),
}

/// Writes a message, and ignores a closed socket. This never blocks: the socket's buffer is larger
/// than all messages to a process that does not read.
pub(super) fn send(mut socket: impl Write, message: &impl Serialize) {
    if let Ok(mut line) = serde_json::to_vec(message) {
        line.push(b'\n');
        let _ = socket.write_all(&line);
    }
}

/// Assembles messages that arrive in pieces.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    pub is_closed: bool,
}

impl Inbox {
    /// Reads all available bytes of a nonblocking socket.
    pub fn fill(&mut self, mut socket: impl Read) {
        let mut piece = [0; 4096];
        loop {
            match socket.read(&mut piece) {
                Ok(0) => self.is_closed = true,
                Ok(length) => {
                    self.bytes.extend(piece.iter().take(length));
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.is_closed = true,
            }
            return;
        }
    }

    /// Returns the next complete message.
    pub fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        serde_json::from_slice(&line).ok()
    }
}
