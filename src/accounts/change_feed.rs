use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Directory, cache::Notice, lookup::Changes, metrics::measured};
use crate::lock::AccountId;

/// How often to ask the database for changes. With the time that forgetting
/// takes, this keeps the promise of one second.
const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// In how many rounds the store is asked once whether it still knows what it
/// has forgotten: every five seconds or so.
const ROUNDS_BETWEEN_CHECKS: u32 = 12;
/// How often to write when tokens were used.
const USAGE_INTERVAL: Duration = Duration::from_secs(60);
/// How long one round of forgetting may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(10);

/// How far a server has followed the changes of the database.
#[derive(Default)]
struct Position {
    /// The number of the last change that it has seen.
    seen: Option<i64>,
    /// How many rounds until it asks the store again.
    rounds: u32,
}

impl Directory {
    /// Follows the changes of the database until `stop`, then closes it.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut notices = self.shared.store().subscribe(&self.shared.channel());
        let work = async { tokio::join!(self.follow(&mut notices), self.write_usage()) };
        stop.run_until_cancelled(work).await;
        let last = async {
            self.usage.write(&self.database).await;
            self.database.close().await;
        };
        if timeout(Self::DATABASE_TIMEOUT, last).await.is_err() {
            tracing::warn!("the database was not closed in time");
        }
    }

    async fn follow(&self, notices: &mut mpsc::Receiver<String>) {
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut position = Position::default();
        let mut is_failing = false;
        loop {
            tokio::select! {
                _ = poll.tick() => {
                    let round = timeout(ROUND_TIMEOUT, self.catch_up(&mut position)).await;
                    let outcome = round.unwrap_or_else(|_| Err("it took too long".into()));
                    // Once when it begins and once when it is over.
                    match (&outcome, is_failing) {
                        (Err(error), false) => tracing::warn!(error, "cannot follow changes of accounts"),
                        (Ok(()), true) => tracing::info!("following changes of accounts again"),
                        _ => {}
                    }
                    is_failing = outcome.is_err();
                    self.note_following(!is_failing);
                    if is_failing {
                        position.rounds = 0;
                    }
                }
                Some(notice) = notices.recv() => self.heed(&notice),
            }
        }
    }

    /// Beside the rest: no change waits until this is written.
    async fn write_usage(&self) {
        let mut tick = interval(USAGE_INTERVAL);
        loop {
            tick.tick().await;
            self.read_cache_key().await;
            self.usage.write(&self.database).await;
            // Servers of this version know by themselves; if it fails it is tried again.
            let _ = measured("end_tokens", self.database.end_tokens()).await;
        }
    }

    /// Forgets all that has changed since the last round.
    async fn catch_up(&self, position: &mut Position) -> Result<(), String> {
        let (since, newest) = self.since(position).await?;
        // Asked after the store was, so that it cannot be behind without
        // having lost something.
        let last = measured("last_change", self.database.last_change()).await.map_err(|error| error.to_string())?;
        let changes = if last < newest {
            // Restored from a backup, perhaps. Numbers must rise for changes to
            // be noticed, and what was kept of the lost ones is not true.
            tracing::warn!(last, newest, "the database has lost changes; forgetting everything kept of it");
            let seq = self.database.count_from(newest + 1).await.map_err(|error| error.to_string())?;
            Changes::everything(seq)
        } else if last > since {
            measured("changes_since", self.database.changes_since(since)).await.map_err(|error| error.to_string())?
        } else {
            position.seen = Some(last);
            return Ok(());
        };
        let (seq, forgotten) = (changes.seq, self.shared.forget(&changes).await);
        // After the store, from which it would be filled again; and also when
        // that has failed, which is tried again.
        if changes.plans || !changes.accounts.is_empty() {
            self.drop_changed(changes.plans, move |account| changes.accounts.contains(account));
        }
        let before = forgotten.map_err(|error| error.to_string())?;
        // A store that was failed over since it was last asked has lost earlier ones.
        position.seen = Some(if before < since { before } else { seq });
        self.note_followed(seq);
        Ok(())
    }

    /// The change from which to go on, and the newest that is known of.
    ///
    /// A server that has just started goes on where the store was left:
    /// changes may have been made while there was no server. And a store that
    /// was failed over may have lost what it was told to forget, but with it the
    /// number up to which it was told.
    async fn since(&self, position: &mut Position) -> Result<(i64, i64), String> {
        if let Some(seen) = position.seen.filter(|_| position.rounds > 0) {
            position.rounds -= 1;
            return Ok((seen, seen));
        }
        let forgotten = self.shared.last_forgotten().await.map_err(|error| error.to_string())?;
        position.rounds = ROUNDS_BETWEEN_CHECKS;
        match position.seen {
            Some(seen) => Ok((seen.min(forgotten), seen.max(forgotten))),
            None => {
                // Another server may have forgotten in the store what this
                // one has read before it listened.
                self.drop_changed(true, |_| true);
                Ok((forgotten, forgotten))
            }
        }
    }

    /// Drops what another server says has changed.
    fn heed(&self, notice: &str) {
        match serde_json::from_str::<Notice>(notice) {
            Ok(Notice { accounts, plans }) => self.drop_changed(plans, move |account| accounts.contains(account)),
            // A newer server's, perhaps. The database will tell.
            Err(error) => tracing::debug!(%error, "a notice of a change cannot be read"),
        }
    }

    fn drop_changed(&self, is_all: bool, is_changed: impl Fn(&AccountId) -> bool + Send + Sync + 'static) {
        self.drop_known(move |account| is_all || is_changed(account));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accounts::{Actor, Caller, Database, FindError, NewAccount, Reach, Token},
        config::DatabaseSettings,
        lock::Label,
        store::{BootClock, Embedded, Script, Store},
    };

    /// What a server has, without its task: a test says when a round is made.
    struct House {
        directory: Arc<Directory>,
        position: Position,
        made: NewAccount,
        _folder: tempfile::TempDir,
    }

    impl House {
        /// One account, whose token was asked for and is kept everywhere.
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite:{}", folder.path().join("test.db").display()).parse().unwrap();
            let database = Database::open(&DatabaseSettings { url, migrate: true, connections: 4 }).await.unwrap();
            database.migrate().await.unwrap();
            let label = Label::parse("test").unwrap();
            let made = database.create_account("ana@example.com", "business", label).await.unwrap();
            let store = Store::Embedded(Arc::new(Embedded::new(BootClock::start()).unwrap()));
            let directory = Directory::new(database, store);
            let mut house = Self { directory, position: Position::default(), made, _folder: folder };
            house.round().await;
            house.find().await.unwrap();
            while !house.store_now().await.iter().all(|(_, value)| !value.is_empty()) {
                tokio::task::yield_now().await;
            }
            house
        }

        fn token(&self) -> Token {
            self.made.token.token.clone()
        }

        async fn round(&mut self) {
            self.directory.catch_up(&mut self.position).await.unwrap();
        }

        async fn find(&self) -> Result<Arc<Caller>, FindError> {
            self.directory.find(&self.token(), Reach::Everything, ()).await
        }

        async fn revoke(&self) {
            self.directory.database.revoke_token(Actor::Operator, None, &self.made.token.id.to_string()).await.unwrap();
        }

        async fn sql(&self, statement: &'static str) {
            sqlx::query(statement).execute(self.directory.database.pool()).await.unwrap();
        }

        /// What the store has under the keys that a token is found by.
        async fn store_now(&self) -> Vec<(String, String)> {
            static GET: Script = Script::new("test_get", "return {redis.call('GET', KEYS[1]) or ''}");
            let store = self.directory.shared.store();
            let token = store.key("accounts", "token", &self.token().hash().to_string());
            let mut values = Vec::new();
            for key in [token, store.key("accounts", "revision", "")] {
                let value = store.run(&GET, &[&key], &[]).await.unwrap().status().to_owned();
                values.push((key, value));
            }
            values
        }

        /// As on a replica that has heard of no change of an account since.
        async fn set_store(&self, values: &[(String, String)]) {
            static SET: Script = Script::new("test_set", "redis.call('SET', KEYS[1], ARGV[1]) return {'set'}");
            static DEL: Script = Script::new("test_del", "redis.call('DEL', KEYS[1]) return {'deleted'}");
            let store = self.directory.shared.store();
            store.run(&DEL, &[&store.key("accounts", "floors", "")], &[]).await.unwrap();
            for (key, value) in values {
                store.run(&SET, &[key], &[value]).await.unwrap();
            }
            self.directory.drop_changed(true, |_| true);
        }
    }

    #[tokio::test]
    async fn what_a_replica_has_not_heard_of_is_forgotten_again() {
        let mut house = House::new().await;
        let before = house.store_now().await;
        house.revoke().await;
        house.round().await;
        assert!(matches!(house.find().await, Err(FindError::Unknown)));

        house.set_store(&before).await;
        assert!(house.find().await.is_ok(), "the test must bring the entry back");
        for _ in 0..=ROUNDS_BETWEEN_CHECKS {
            house.round().await;
        }
        assert!(matches!(house.find().await, Err(FindError::Unknown)));
    }

    #[tokio::test]
    async fn what_a_replica_has_not_heard_of_is_forgotten_also_when_the_next_change_comes_first() {
        let mut house = House::new().await;
        let before = house.store_now().await;
        house.revoke().await;
        house.round().await;
        house.set_store(&before).await;
        house
            .directory
            .database
            .create_account("eve@example.com", "business", Label::parse("x").unwrap())
            .await
            .unwrap();
        house.round().await;
        house.round().await;
        assert!(matches!(house.find().await, Err(FindError::Unknown)));
    }

    #[tokio::test]
    async fn changes_of_a_database_that_was_put_back_are_noticed() {
        let mut house = House::new().await;
        house.directory.database.set_suspended("ana@example.com", true).await.unwrap();
        house.round().await;
        assert!(house.find().await.unwrap().suspended);

        house.sql("UPDATE accounts SET suspended_at = NULL, revision = 1").await;
        house.sql("UPDATE revision SET seq = 1").await;
        house.round().await;
        assert!(!house.find().await.unwrap().suspended, "what was kept is not of this database");
        house.revoke().await;
        house.round().await;
        assert!(matches!(house.find().await, Err(FindError::Unknown)));
    }

    #[tokio::test]
    async fn a_change_of_many_accounts_is_one_script() {
        let mut house = House::new().await;
        house
            .sql(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2001) \
                 INSERT INTO accounts (id, email, email_lower, plan, created_at, revision) \
                 SELECT i, i, i, 'business', 0, 99 FROM n",
            )
            .await;
        house.sql("UPDATE tokens SET revoked_at = 0").await;
        house.sql("UPDATE revision SET seq = 99").await;
        assert!(house.directory.database.changes_since(1).await.unwrap().plans);
        house.round().await;
        assert!(matches!(house.find().await, Err(FindError::Unknown)));
    }

    #[tokio::test]
    async fn what_was_read_in_the_middle_of_a_change_is_not_remembered() {
        let house = House::new().await;
        let (entry, _) = house.store_now().await.swap_remove(0);
        house.set_store(&[(entry, String::new())]).await;

        // All connections are taken, so that the reader stands still.
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(house.directory.database.pool().acquire().await.unwrap());
        }
        let (directory, token) = (house.directory.clone(), house.token());
        let reader = tokio::spawn(async move { directory.find(&token, Reach::Everything, ()).await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        house.directory.drop_changed(false, |_| false);
        drop(taken);
        assert!(reader.await.unwrap().is_ok());
        assert!(!house.directory.remembers(&house.token().hash()));
    }
}
