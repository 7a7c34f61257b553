use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use deadpool_redis::Pool;
use lockable_resp::Pipeline;
use redis::aio::MultiplexedConnection;
use tokio_util::sync::CancellationToken;

use super::{
    command_error::CommandError, discovery::LocatedServer, per_runtime::RuntimeConnections,
    server_info::ServerIdentity, tag_handle::ServedTags,
};

/// The number of consecutive time-outs after which the connection counts as dead.
const TIMEOUTS_IN_A_ROW_MAX: u32 = 3;

/// Connections to one Redis server that has passed all checks.
pub(super) struct CheckedNode {
    /// The connections for scripts.
    pub(super) scripts: RuntimeConnections,
    /// The connection for periodic checks.
    pub(super) connection: MultiplexedConnection,
    /// Connections to the same server for commands that block their connection.
    pub(super) pool: Pool,
    pub(super) located: LocatedServer,
    /// The hash tags that this server serves.
    pub(super) tags: Arc<ServedTags>,
    /// The server's identity at the last check.
    pub(super) identity: Mutex<ServerIdentity>,
    pub(super) timeouts_in_a_row: AtomicU32,
    pub(super) broken: CancellationToken,
}

impl CheckedNode {
    /// The server's identity at the last check.
    pub(super) fn identity(&self) -> ServerIdentity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The current runtime's connection for scripts.
    pub(super) fn pipeline(&self) -> &Pipeline {
        self.scripts.current()
    }

    /// Resets the count of consecutive time-outs.
    pub(super) fn record_reply(&self) {
        if self.timeouts_in_a_row.load(Ordering::Relaxed) != 0 {
            self.timeouts_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// Records a command error, and requests a reconnect if the connection caused it.
    pub(super) fn record_error(&self, error: &CommandError) {
        let must_reconnect = match error {
            CommandError::TimedOut => {
                self.timeouts_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_IN_A_ROW_MAX
            }
            CommandError::ConnectionLost(_) | CommandError::NotMaster(_) => true,
            CommandError::QueueFull | CommandError::Other(_) => false,
        };
        if must_reconnect {
            self.broken.cancel();
        }
    }
}
