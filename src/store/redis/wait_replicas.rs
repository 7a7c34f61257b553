use tokio::time::{Instant, timeout_at};

use super::{
    Redis,
    command_error::{Fault, evaluate},
    pooled::Lent,
};
use crate::store::{Reply, Script, StoreError};

impl Redis {
    /// Like [`run`](Self::run), and has as many replicas acknowledge it as the
    /// settings say, on a connection of its own: `WAIT` holds it up.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn run_replicated(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
        begun: std::time::Instant,
    ) -> Result<Reply, StoreError> {
        match self.wait_replicas {
            0 => self.run(script, keys, args, begun).await,
            // Boxed: its room would be taken in every request, most of which
            // come by the other way.
            _ => Box::pin(self.run_and_wait(script, keys, args)).await,
        }
    }

    async fn run_and_wait(&self, script: &'static Script, keys: &[&str], args: &[&str]) -> Result<Reply, StoreError> {
        let deadline = Instant::now() + self.timeout;
        let live = self.route_to(keys).live(deadline).await?;
        let mut lent = match timeout_at(deadline, live.pool.get()).await {
            Ok(Ok(pooled)) => Lent(Some(pooled)),
            Ok(Err(error)) => return Err(StoreError::NotSent(error.to_string())),
            Err(_) => return Err(StoreError::NotSent("no connection was free in time".into())),
        };
        let replicated = async {
            let pooled = lent.connection()?;
            let reply = evaluate(&mut **pooled, script, keys, args).await?;
            let rest = deadline.saturating_duration_since(Instant::now());
            // Zero would mean to wait for ever.
            let rest_ms = rest.as_millis().max(1) as u64;
            let mut wait = redis::cmd("WAIT");
            let acknowledged = wait.arg(self.wait_replicas).arg(rest_ms).query_async::<u32>(&mut **pooled).await;
            // Whatever was answered, the script has run.
            Ok::<_, Fault>((reply, acknowledged.map_err(|error| Fault::Gone(error.to_string()))?))
        };
        let (reply, acknowledged) = timeout_at(deadline, replicated).await.unwrap_or(Err(Fault::Slow))?;
        lent.give_back();
        if acknowledged < self.wait_replicas {
            let wanted = self.wait_replicas;
            let complaint = format!("{acknowledged} of {wanted} replicas acknowledged in time");
            return Err(StoreError::NoAnswer(complaint));
        }
        Ok(reply)
    }
}
