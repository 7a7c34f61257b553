use super::command_error::CommandError;

/// A pooled connection. Dropping it closes the connection, unless all of its commands have been
/// answered: the next user must not read a pending reply, and after a fail-over the connection
/// leads to the old master.
pub(super) struct PooledConnection(pub(super) Option<deadpool_redis::Connection>);

impl PooledConnection {
    pub(super) fn connection(&mut self) -> Result<&mut deadpool_redis::Connection, CommandError> {
        self.0.as_mut().ok_or_else(|| CommandError::ConnectionLost("the connection was returned to the pool".into()))
    }

    pub(super) fn return_to_pool(mut self) {
        self.0 = None;
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some(pooled) = self.0.take() {
            drop(deadpool_redis::Connection::take(pooled));
        }
    }
}
