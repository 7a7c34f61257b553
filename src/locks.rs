//! The service: one function per operation, each one script call. What is
//! decided about a lock is decided in `lua/`; this room says who asks for what,
//! and reads the answer once.

mod acquire;
mod heartbeat;
mod release;
mod request;
mod stored;
mod undo;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::keyspace::{BadReply, Keyspace, KeyspaceError};

pub use self::request::{AcquireRequest, Answer, Claimant, HeartbeatRequest, LockId, ReleaseRequest};

/// Locks, wherever they are kept.
#[derive(Clone)]
pub struct Locks {
    keyspace: Keyspace,
    undoings: Arc<Semaphore>,
}

/// Why an operation has no outcome. It may have been carried out, unless its
/// function says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum LocksError {
    #[error(transparent)]
    Keyspace(#[from] KeyspaceError),
    /// The keyspace came to it only after its deadline, and did nothing.
    #[error("the keyspace was reached too late, and did nothing")]
    TooLate,
    #[error(transparent)]
    Reply(#[from] BadReply),
}

impl Locks {
    /// How many acquires without an answer are taken back at a time. More than
    /// that are left to lapse.
    pub const UNDOINGS_MAX: usize = 10_000;

    pub fn new(keyspace: Keyspace) -> Self {
        Self { keyspace, undoings: Arc::new(Semaphore::new(Self::UNDOINGS_MAX)) }
    }

    /// The keyspace time in microseconds after which nobody waits for an answer
    /// to what is sent now, and nothing may be done any more.
    fn deadline_us(&self) -> Result<u64, KeyspaceError> {
        let now_us = self.keyspace.now_us();
        let now_us = now_us.ok_or_else(|| KeyspaceError::NotSent("its time is not known yet".into()))?;
        Ok(now_us + self.keyspace.timeout().as_micros() as u64)
    }
}
