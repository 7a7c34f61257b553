use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Caller, Directory, cache::Notice};

/// How often to ask the database for changes. With the time that forgetting
/// takes, this keeps the promise of one second.
const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// How often to write when tokens were used.
const USAGE_INTERVAL: Duration = Duration::from_secs(60);
/// How long one round of forgetting may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(10);

impl Directory {
    /// Follows the changes of the database until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut notices = self.shared.keyspace().subscribe(&self.shared.channel());
        shutdown.run_until_cancelled(self.follow(&mut notices)).await;
        let _ = timeout(Self::DATABASE_TIMEOUT, self.usage.write(&self.database)).await;
    }

    async fn follow(&self, notices: &mut mpsc::Receiver<String>) {
        let mut poll = interval(POLL_INTERVAL);
        let mut usage = interval(USAGE_INTERVAL);
        let mut seen = None;
        let mut is_failing = false;
        loop {
            tokio::select! {
                _ = poll.tick() => {
                    let round = timeout(ROUND_TIMEOUT, self.catch_up(&mut seen)).await;
                    let outcome = round.unwrap_or_else(|_| Err("it took too long".into()));
                    // Once when it begins and once when it is over.
                    match (&outcome, is_failing) {
                        (Err(error), false) => tracing::warn!(error, "cannot follow changes of accounts"),
                        (Ok(()), true) => tracing::info!("following changes of accounts again"),
                        _ => {}
                    }
                    is_failing = outcome.is_err();
                }
                Some(notice) = notices.recv() => self.heed(&notice),
                _ = usage.tick() => self.usage.write(&self.database).await,
            }
        }
    }

    /// Forgets all that has changed since the change `seen`. A server that has
    /// just started goes on where the keyspace was left: changes may have been
    /// made while there was no server.
    async fn catch_up(&self, seen: &mut Option<i64>) -> Result<(), String> {
        let last = self.database.last_change().await.map_err(|error| error.to_string())?;
        let since = match *seen {
            Some(since) => since,
            None => self.shared.last_forgotten().await.map_err(|error| error.to_string())?,
        };
        if last > since {
            let changes = self.database.changes_since(since).await.map_err(|error| error.to_string())?;
            let forgotten = self.shared.forget(&changes).await;
            // Memory is dropped though the keyspace be away: without it no
            // entry there can be read either, and it is tried again.
            let (accounts, plans) = (changes.accounts, changes.plans);
            self.drop_known(move |caller: &Caller| plans || accounts.contains(&caller.account));
            forgotten.map_err(|error| error.to_string())?;
            *seen = Some(changes.seq);
        } else {
            *seen = Some(last);
        }
        Ok(())
    }

    /// Drops what another server says has changed.
    fn heed(&self, notice: &str) {
        match serde_json::from_str::<Notice>(notice) {
            Ok(Notice { accounts, plans }) => {
                self.drop_known(move |caller: &Caller| plans || accounts.contains(&caller.account));
            }
            // A newer server's, perhaps. The database will tell.
            Err(error) => tracing::debug!(%error, "a notice of a change cannot be read"),
        }
    }
}
