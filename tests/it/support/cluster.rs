use super::{
    Account, Pod,
    postgres::Postgres,
    redis::{self, RedisServer},
};

/// Has a pod wait for Redis no longer than it does by default, where that is what a
/// test is about.
pub const PROMPT: (&str, &str) = ("LOCKABLE_REDIS_TIMEOUT", "500ms");

/// Several pods on one Redis and one Postgres.
pub struct Cluster {
    pub pods: Vec<Pod>,
    pub redis: RedisServer,
    pub postgres: Postgres,
}

impl Cluster {
    /// Starts the servers, then the pods, all at once.
    pub async fn start(pods: usize) -> Self {
        Self::start_with(pods, RedisServer::builder(), &[]).await
    }

    /// Starts pods that see to it that a recovery is short: leases that are longer
    /// than a second are written down.
    pub async fn start_careful(pods: usize) -> Self {
        Self::start_with(pods, RedisServer::builder(), &[("LOCKABLE_JOURNAL_ABOVE", "1s")]).await
    }

    /// Starts the servers, Redis as it is said, then the pods with these settings.
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

    /// Runs an operator's command, as on a machine that knows the database.
    pub async fn operator(&self, args: &[&str]) -> serde_json::Value {
        self.pods[0].operator(args).await
    }

    /// Makes an account on a plan, with its first token.
    pub async fn account(&self, plan: &str) -> Account {
        self.pods[0].account(plan).await
    }
}
