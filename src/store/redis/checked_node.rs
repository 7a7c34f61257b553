use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use deadpool_redis::Pool;
use redis::aio::MultiplexedConnection;
use tokio_util::sync::CancellationToken;

use super::{
    command_error::Fault, discovery::Located, per_runtime::Lanes, pipeline::Pipeline, server_info::Identity,
    slot_map::Routes,
};

/// How many scripts in a row may go unanswered before the connection is taken
/// for dead.
const SLOW_IN_A_ROW_MAX: u32 = 3;

/// Connections to one server, which was checked.
pub(super) struct Live {
    /// For scripts.
    pub(super) lanes: Lanes,
    /// On which it is looked whether all is well.
    pub(super) connection: MultiplexedConnection,
    /// More connections to the same server, for what needs one to itself.
    pub(super) pool: Pool,
    pub(super) located: Located,
    /// What leads here.
    pub(super) routes: Arc<Routes>,
    /// What the server said of itself at the last look.
    pub(super) identity: Mutex<Identity>,
    pub(super) slow_in_a_row: AtomicU32,
    pub(super) broken: CancellationToken,
}

impl Live {
    /// Who the server has said that it is.
    pub(super) fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The way for scripts from the runtime that this is called in.
    pub(super) fn pipeline(&self) -> &Pipeline {
        self.lanes.here()
    }

    /// Takes note of an answer.
    pub(super) fn answered(&self) {
        if self.slow_in_a_row.load(Ordering::Relaxed) != 0 {
            self.slow_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// Takes note of a fault, and gives the connection up when it is to blame.
    pub(super) fn note(&self, fault: &Fault) {
        let is_broken = match fault {
            Fault::Slow => self.slow_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= SLOW_IN_A_ROW_MAX,
            Fault::Gone(_) | Fault::NoMaster(_) => true,
            Fault::Full | Fault::Error(_) => false,
        };
        if is_broken {
            self.broken.cancel();
        }
    }
}
