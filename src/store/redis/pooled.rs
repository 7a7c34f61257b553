use super::command_error::Fault;

/// A connection of the pool that is not given back unless all that was asked on
/// it has been answered: whatever is still to come is not for its next user, and
/// after a fail-over it leads to the old master.
pub(super) struct Lent(pub(super) Option<deadpool_redis::Connection>);

impl Lent {
    pub(super) fn connection(&mut self) -> Result<&mut deadpool_redis::Connection, Fault> {
        self.0.as_mut().ok_or_else(|| Fault::Gone("the connection was given back".into()))
    }

    pub(super) fn give_back(mut self) {
        self.0 = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(pooled) = self.0.take() {
            drop(deadpool_redis::Connection::take(pooled));
        }
    }
}
