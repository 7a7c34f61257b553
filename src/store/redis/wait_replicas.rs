use tokio::time::{Instant, timeout_at};

use super::{
    Redis,
    command_error::CommandError,
    eval::{GeneralConnection, eval},
    pooled::PooledConnection,
};
use crate::store::{Reply, Script, StoreError};

impl Redis {
    /// Runs a script as [`eval`](Self::eval) does, then waits until the configured number of
    /// replicas have acknowledged its writes. Uses a pooled connection, because `WAIT` blocks it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn eval_replicated(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
        begun: std::time::Instant,
    ) -> Result<Reply, StoreError> {
        match self.wait_replicas {
            0 => self.eval(script, keys, args, begun).await,
            // Boxed, so that the futures of other requests stay small.
            _ => Box::pin(self.eval_and_wait(script, keys, args)).await,
        }
    }

    async fn eval_and_wait(&self, script: &'static Script, keys: &[&str], args: &[&str]) -> Result<Reply, StoreError> {
        let deadline = Instant::now() + self.timeout;
        let node = self.handle_for(keys).node(deadline).await?;
        let mut pooled = match timeout_at(deadline, node.pool.get()).await {
            Ok(Ok(connection)) => PooledConnection(Some(connection)),
            Ok(Err(error)) => return Err(StoreError::NotSent(error.to_string())),
            Err(_) => return Err(StoreError::NotSent("no connection was free in time".into())),
        };
        let replicated = async {
            let connection = pooled.connection()?;
            let reply = eval(&mut GeneralConnection(&mut **connection), script, keys, args).await?;
            let rest = deadline.saturating_duration_since(Instant::now());
            // `WAIT` with a time-out of 0 blocks for ever.
            let rest_ms = rest.as_millis().max(1) as u64;
            let mut wait = redis::cmd("WAIT");
            let acknowledged = wait.arg(self.wait_replicas).arg(rest_ms).query_async::<u32>(&mut **connection).await;
            // The script has run, whatever `WAIT` returned.
            Ok::<_, CommandError>((
                reply,
                acknowledged.map_err(|error| CommandError::ConnectionLost(error.to_string()))?,
            ))
        };
        let (reply, acknowledged) = timeout_at(deadline, replicated).await.unwrap_or(Err(CommandError::TimedOut))?;
        pooled.return_to_pool();
        if acknowledged < self.wait_replicas {
            let wanted = self.wait_replicas;
            let message = format!("{acknowledged} of {wanted} replicas acknowledged in time");
            return Err(StoreError::NoAnswer(message));
        }
        Ok(reply)
    }
}
