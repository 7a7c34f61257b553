use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{TokenCache, cache::Invalidation, lookup::ChangeSet, metrics::measured};
use crate::lock::AccountId;

/// Interval of queries for changes. With the time of the invalidation, changes apply within one
/// second.
const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// Rounds between checks of the change number in the store: one check about every five seconds.
const ROUNDS_BETWEEN_CHECKS: u32 = 12;
/// Interval for writing the last use of tokens.
const USAGE_INTERVAL: Duration = Duration::from_secs(60);
/// Time limit for one round.
const ROUND_TIMEOUT: Duration = Duration::from_secs(10);

/// A server's position in the sequence of changes.
#[derive(Default)]
struct FeedPosition {
    /// The number of the last change that this server has seen.
    seen: Option<i64>,
    /// Rounds until the next check of the store.
    rounds: u32,
}

impl TokenCache {
    /// Follows the changes of the database until `stop`, then closes the database.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut invalidations = self.shared.store().subscribe(&self.shared.channel());
        let work = async { tokio::join!(self.follow(&mut invalidations), self.write_usage()) };
        stop.run_until_cancelled(work).await;
        let last = async {
            self.usage.write(&self.database).await;
            self.database.close().await;
        };
        if timeout(Self::DATABASE_TIMEOUT, last).await.is_err() {
            tracing::warn!("the database connections were not closed in time");
        }
    }

    async fn follow(&self, invalidations: &mut mpsc::Receiver<String>) {
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut position = FeedPosition::default();
        let mut is_failing = false;
        loop {
            tokio::select! {
                _ = poll.tick() => {
                    let round = timeout(ROUND_TIMEOUT, self.catch_up(&mut position)).await;
                    let outcome = round.unwrap_or_else(|_| Err("timed out".into()));
                    // Log only when a failure begins and when it ends.
                    match (&outcome, is_failing) {
                        (Err(error), false) => tracing::warn!(error, "cannot follow account changes; revoked tokens may stay valid until the database is reachable"),
                        (Ok(()), true) => tracing::info!("following account changes again"),
                        _ => {}
                    }
                    is_failing = outcome.is_err();
                    self.set_feed_up(!is_failing);
                    if is_failing {
                        position.rounds = 0;
                    }
                }
                Some(invalidation) = invalidations.recv() => self.apply_invalidation(&invalidation),
            }
        }
    }

    /// Runs beside the change feed, so that no invalidation waits for this write.
    async fn write_usage(&self) {
        let mut tick = interval(USAGE_INTERVAL);
        loop {
            tick.tick().await;
            self.read_cache_key().await;
            self.usage.write(&self.database).await;
            // Servers of this version check the expiry themselves; a failure is retried in the next
            // round.
            let _ = measured("revoke_expired_tokens", self.database.revoke_expired_tokens()).await;
        }
    }

    /// Invalidates the cached entries of accounts that have changed since the last round.
    async fn catch_up(&self, position: &mut FeedPosition) -> Result<(), String> {
        let (since, newest) = self.since(position).await?;
        // Read this after the store's number. If it is smaller, the database has lost changes.
        let last = measured("last_change", self.database.last_change()).await.map_err(|error| error.to_string())?;
        let changes = if last < newest {
            // The database was probably restored from a backup. Raise its counter above all numbers
            // that servers have seen, or they would miss the next changes. Entries that were read
            // before the restore are wrong.
            tracing::warn!(
                last,
                newest,
                "the account database has lost changes, probably by a restore; invalidating all cached tokens"
            );
            let seq = self.database.count_from(newest + 1).await.map_err(|error| error.to_string())?;
            ChangeSet::everything(seq)
        } else if last > since {
            measured("changes_since", self.database.changes_since(since)).await.map_err(|error| error.to_string())?
        } else {
            position.seen = Some(last);
            return Ok(());
        };
        let (seq, invalidated) = (changes.seq, self.shared.invalidate(&changes).await);
        // Invalidate memory after the store: a request could otherwise copy an outdated entry from
        // the store back into memory. Invalidate it even if the store failed; the next round retries.
        if changes.plans || !changes.accounts.is_empty() {
            self.invalidate_changed(changes.plans, move |account| changes.accounts.contains(account));
        }
        let before = invalidated.map_err(|error| error.to_string())?;
        // A failover of the store since the last check may have lost earlier invalidations.
        position.seen = Some(if before < since { before } else { seq });
        self.set_last_change(seq);
        Ok(())
    }

    /// Returns the change number to continue from, and the largest known change number.
    ///
    /// A new server continues from the store's number: changes may have been made while no server
    /// ran. A failover of the store may lose invalidations, but loses the number with them.
    async fn since(&self, position: &mut FeedPosition) -> Result<(i64, i64), String> {
        if let Some(seen) = position.seen.filter(|_| position.rounds > 0) {
            position.rounds -= 1;
            return Ok((seen, seen));
        }
        let invalidated = self.shared.last_invalidated().await.map_err(|error| error.to_string())?;
        position.rounds = ROUNDS_BETWEEN_CHECKS;
        match position.seen {
            Some(seen) => Ok((seen.min(invalidated), seen.max(invalidated))),
            None => {
                // This server may have read entries from the store before it subscribed, and another
                // server may have invalidated them since.
                self.invalidate_changed(true, |_| true);
                Ok((invalidated, invalidated))
            }
        }
    }

    /// Applies an invalidation from another server.
    fn apply_invalidation(&self, invalidation: &str) {
        match serde_json::from_str::<Invalidation>(invalidation) {
            Ok(Invalidation { accounts, plans }) => {
                self.invalidate_changed(plans, move |account| accounts.contains(account));
            }
            // A newer server may have sent it. The next round reads the change from the database.
            Err(error) => tracing::debug!(%error, "cannot parse an invalidation message"),
        }
    }

    fn invalidate_changed(&self, is_all: bool, is_changed: impl Fn(&AccountId) -> bool + Send + Sync + 'static) {
        self.invalidate_callers(move |account| is_all || is_changed(account));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accounts::{Actor, Caller, Database, LookupDepth, NewAccount, Token, TokenLookupError},
        config::DatabaseSettings,
        lock::Label,
        store::{BootClock, Embedded, Script, Store},
    };

    /// The state of a server without its background task: the test triggers each round.
    struct TestServer {
        token_cache: Arc<TokenCache>,
        position: FeedPosition,
        created: NewAccount,
        _folder: tempfile::TempDir,
    }

    impl TestServer {
        /// Creates one account whose token is cached in memory and in the store.
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite:{}", folder.path().join("test.db").display()).parse().unwrap();
            let database = Database::open(&DatabaseSettings { url, migrate: true, connections: 4 }).await.unwrap();
            database.migrate().await.unwrap();
            let label = Label::parse("test").unwrap();
            let created = database.create_account("ana@example.com", "business", label).await.unwrap();
            let store = Store::Embedded(Arc::new(Embedded::new(BootClock::start()).unwrap()));
            let token_cache = TokenCache::new(database, store);
            let mut server = Self { token_cache, position: FeedPosition::default(), created, _folder: folder };
            server.round().await;
            server.find().await.unwrap();
            while !server.store_values().await.iter().all(|(_, value)| !value.is_empty()) {
                tokio::task::yield_now().await;
            }
            server
        }

        fn token(&self) -> Token {
            self.created.token.token.clone()
        }

        async fn round(&mut self) {
            self.token_cache.catch_up(&mut self.position).await.unwrap();
        }

        async fn find(&self) -> Result<Arc<Caller>, TokenLookupError> {
            self.token_cache.find(&self.token(), LookupDepth::Database, ()).await
        }

        async fn revoke(&self) {
            self.token_cache
                .database
                .revoke_token(Actor::Operator, None, &self.created.token.id.to_string())
                .await
                .unwrap();
        }

        async fn sql(&self, statement: &'static str) {
            sqlx::query(statement).execute(self.token_cache.database.pool()).await.unwrap();
        }

        /// Reads the store's values for the token and for the change number.
        async fn store_values(&self) -> Vec<(String, String)> {
            static GET: Script = Script::new("test_get", "return {redis.call('GET', KEYS[1]) or ''}");
            let store = self.token_cache.shared.store();
            let token = store.key("accounts", "token", &self.token().hash().to_string());
            let mut values = Vec::new();
            for key in [token, store.key("accounts", "revision", "")] {
                let value = store.eval(&GET, &[&key], &[]).await.unwrap().status().to_owned();
                values.push((key, value));
            }
            values
        }

        /// Restores the values, like a failover to a replica that has missed later changes.
        async fn restore_store(&self, values: &[(String, String)]) {
            static SET: Script = Script::new("test_set", "redis.call('SET', KEYS[1], ARGV[1]) return {'set'}");
            static DEL: Script = Script::new("test_del", "redis.call('DEL', KEYS[1]) return {'deleted'}");
            let store = self.token_cache.shared.store();
            store.eval(&DEL, &[&store.key("accounts", "floors", "")], &[]).await.unwrap();
            for (key, value) in values {
                store.eval(&SET, &[key], &[value]).await.unwrap();
            }
            self.token_cache.invalidate_changed(true, |_| true);
        }
    }

    #[tokio::test]
    async fn invalidation_lost_by_a_failover_is_repeated() {
        let mut server = TestServer::new().await;
        let before = server.store_values().await;
        server.revoke().await;
        server.round().await;
        assert!(matches!(server.find().await, Err(TokenLookupError::Unknown)));

        server.restore_store(&before).await;
        assert!(server.find().await.is_ok(), "the test must bring the entry back");
        for _ in 0..=ROUNDS_BETWEEN_CHECKS {
            server.round().await;
        }
        assert!(matches!(server.find().await, Err(TokenLookupError::Unknown)));
    }

    #[tokio::test]
    async fn invalidation_lost_by_a_failover_is_repeated_after_the_next_change() {
        let mut server = TestServer::new().await;
        let before = server.store_values().await;
        server.revoke().await;
        server.round().await;
        server.restore_store(&before).await;
        server
            .token_cache
            .database
            .create_account("eve@example.com", "business", Label::parse("x").unwrap())
            .await
            .unwrap();
        server.round().await;
        server.round().await;
        assert!(matches!(server.find().await, Err(TokenLookupError::Unknown)));
    }

    #[tokio::test]
    async fn restore_of_the_database_invalidates_all_entries() {
        let mut server = TestServer::new().await;
        server.token_cache.database.set_suspended("ana@example.com", true).await.unwrap();
        server.round().await;
        assert!(server.find().await.unwrap().suspended);

        server.sql("UPDATE accounts SET suspended_at = NULL, revision = 1").await;
        server.sql("UPDATE revision SET seq = 1").await;
        server.round().await;
        assert!(!server.find().await.unwrap().suspended, "the entry is from before the restore");
        server.revoke().await;
        server.round().await;
        assert!(matches!(server.find().await, Err(TokenLookupError::Unknown)));
    }

    #[tokio::test]
    async fn change_of_many_accounts_invalidates_all_entries() {
        let mut server = TestServer::new().await;
        server
            .sql(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2001) \
                 INSERT INTO accounts (id, email, email_lower, plan, created_at, revision) \
                 SELECT i, i, i, 'business', 0, 99 FROM n",
            )
            .await;
        server.sql("UPDATE tokens SET revoked_at = 0").await;
        server.sql("UPDATE revision SET seq = 99").await;
        assert!(server.token_cache.database.changes_since(1).await.unwrap().plans);
        server.round().await;
        assert!(matches!(server.find().await, Err(TokenLookupError::Unknown)));
    }

    #[tokio::test]
    async fn lookup_during_an_invalidation_is_not_cached() {
        let server = TestServer::new().await;
        let (entry, _) = server.store_values().await.swap_remove(0);
        server.restore_store(&[(entry, String::new())]).await;

        // Hold all connections, so that the reader blocks.
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(server.token_cache.database.pool().acquire().await.unwrap());
        }
        let (token_cache, token) = (server.token_cache.clone(), server.token());
        let reader = tokio::spawn(async move { token_cache.find(&token, LookupDepth::Database, ()).await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        server.token_cache.invalidate_changed(false, |_| false);
        drop(held);
        assert!(reader.await.unwrap().is_ok());
        assert!(!server.token_cache.contains(&server.token().hash()));
    }
}
