//! The account pages over HTTP, on PostgreSQL and Redis, and their protection against other users.

mod content;
mod forms;
mod headers;
mod links;
mod live_updates;
mod sign_in;
mod tokens;

use crate::support::{Cluster, redis::RedisServer};

/// Starts a server with open sign-up on the plan with all features.
pub async fn open_cluster() -> Cluster {
    let settings = [("LOCKABLE_SIGN_UP", "true"), ("LOCKABLE_SIGN_UP_PLAN", "business")];
    Cluster::start_with(1, RedisServer::builder(), &settings).await
}
