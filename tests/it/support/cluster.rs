use super::{Account, Pod, postgres::Postgres, redis::RedisServer};

/// Several pods on one Redis and one Postgres.
pub struct Cluster {
    pub pods: Vec<Pod>,
    pub redis: RedisServer,
    pub postgres: Postgres,
}

impl Cluster {
    /// Starts the servers, then the pods, all at once.
    pub async fn start(pods: usize) -> Self {
        let redis = RedisServer::start();
        let postgres = Postgres::database().await;
        let starting = (0..pods).map(|_| Pod::builder().redis(&redis).database(&postgres.url).start());
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
