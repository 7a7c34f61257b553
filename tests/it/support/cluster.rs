use super::{
    Account, Pod,
    postgres::Postgres,
    redis::{self, RedisServer},
};

/// Sets the product's default Redis timeout, for tests that measure it. Other tests use a longer
/// one.
pub const DEFAULT_REDIS_TIMEOUT: (&str, &str) = ("LOCKABLE_REDIS_TIMEOUT", "500ms");

/// Several servers on one Redis and one PostgreSQL database.
pub struct Cluster {
    pub pods: Vec<Pod>,
    pub redis: RedisServer,
    pub postgres: Postgres,
}

impl Cluster {
    /// Starts Redis and the database, then all servers at once.
    pub async fn start(pods: usize) -> Self {
        Self::start_with(pods, RedisServer::builder(), &[]).await
    }

    /// Starts servers whose recoveries are short: the journal records every lease above one second.
    pub async fn start_with_short_recovery(pods: usize) -> Self {
        Self::start_with(pods, RedisServer::builder(), &[("LOCKABLE_JOURNAL_ABOVE", "1s")]).await
    }

    /// Starts Redis with these arguments, then servers with these settings.
    pub async fn start_with(pods: usize, redis: redis::Builder, settings: &[(&str, &str)]) -> Self {
        let redis = redis.start();
        let postgres = Postgres::database().await;
        let starting = (0..pods).map(|_| {
            let pod = Pod::builder().redis(&redis).database(&postgres.url);
            settings.iter().fold(pod, |pod, (name, value)| pod.env(name, value)).start()
        });
        let pods = futures_util::future::join_all(starting).await;
        Self { pods, redis, postgres }
    }

    /// Runs an operator command with the database settings of the first server.
    pub async fn operator(&self, args: &[&str]) -> serde_json::Value {
        self.pods[0].operator(args).await
    }

    /// Creates an account on a plan, with its first token.
    pub async fn account(&self, plan: &str) -> Account {
        self.pods[0].account(plan).await
    }
}
