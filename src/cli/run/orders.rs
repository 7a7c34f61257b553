//! What `lockable run` and its watchdog write to each other: one JSON text a line.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::descendants::{Ending, Process};

/// From `lockable run` to its watchdog.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The lock is held until then, in nanoseconds of a [`BootTime`](crate::client::BootTime). The
    /// watchdog confirms it.
    Until(u64),
    /// Run the command.
    Start(Start),
    /// Send the command a signal.
    Signal(i32),
    /// Send every process a signal that stops it, or continues it.
    SignalAll(i32),
    /// End every process: SIGKILL from then on, in nanoseconds; SIGTERM before.
    End(u64),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub environment: Vec<(String, String)>,
    /// How long before the lock is lost the command is sent SIGTERM.
    pub kill_after_ms: u64,
    /// How long after its end what it has left behind has between SIGTERM and SIGKILL.
    pub grace_ms: u64,
}

/// From the watchdog to `lockable run`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The process that becomes the command.
    Forked(i32),
    /// This order has arrived.
    Until(u64),
    /// The command cannot be executed, with the number of the error.
    NotStarted(i32),
    /// The lease has all but expired before the command was executed.
    Expired,
    /// The command belongs to another user, and was not sent the signal.
    NotSignaled(i32, Process),
    /// The lock could not be relied on any more: the watchdog ends the command.
    Ending,
    /// The command has ended.
    Ended(Ending),
    /// Every process has ended. The watchdog ends, too.
    Gone,
    /// These processes cannot be ended. The watchdog ends, too.
    Left(Vec<Process>),
}

/// Writes a message, if there is still a reader. It never waits: the socket holds more than is
/// ever written to a process that does not read.
pub(super) fn send(mut socket: impl Write, message: &impl Serialize) {
    if let Ok(mut line) = serde_json::to_vec(message) {
        line.push(b'\n');
        let _ = socket.write_all(&line);
    }
}

/// Messages that arrive in pieces.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    pub is_closed: bool,
}

impl Inbox {
    /// Reads what has arrived on a socket that does not block.
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

    /// The next message that is complete.
    pub fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.bytes.drain(..=end).collect();
        serde_json::from_slice(&line).ok()
    }
}
