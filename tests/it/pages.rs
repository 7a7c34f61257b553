//! The account page over HTTP, on PostgreSQL and Redis: what it does, and what it
//! does not do for others.

mod forms;
mod guessing;
mod headers;
mod links;
mod live;
mod reading;
mod tokens;

use crate::support::{Cluster, redis::RedisServer};

/// A server where anybody may make an account, on a plan that has everything.
pub async fn open_cluster() -> Cluster {
    let settings = [("LOCKABLE_SIGN_UP", "true"), ("LOCKABLE_SIGN_UP_PLAN", "business")];
    Cluster::start_with(1, RedisServer::builder(), &settings).await
}
