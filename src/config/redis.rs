use std::time::Duration;

use super::{SecretUrl, bytes, duration};

/// The store.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Store")]
pub struct RedisSettings {
    /// Redis 7.0 or newer, or Valkey: redis://, rediss://, redis+unix://, redis+sentinel: or redis+cluster: with several hosts, or file: and the path of a file that says so. Without it, locks live in this process alone
    #[arg(id = "redis-url", long, env = "LOCKABLE_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub url: Option<SecretUrl>,

    /// How long one operation may wait for Redis, connecting included
    #[arg(id = "redis-timeout", long, env = "LOCKABLE_REDIS_TIMEOUT", default_value = "500ms", value_parser = duration, value_name = "DURATION")]
    pub timeout: Duration,

    /// What the name of every key begins with
    #[arg(id = "redis-prefix", long, env = "LOCKABLE_REDIS_PREFIX", default_value = "lockable", value_parser = prefix, value_name = "TEXT")]
    pub prefix: String,

    /// How many replicas must have a grant before it is answered
    #[arg(
        id = "redis-wait-replicas",
        long,
        env = "LOCKABLE_REDIS_WAIT_REPLICAS",
        default_value_t = 0,
        value_name = "N"
    )]
    pub wait_replicas: u32,

    /// How many connections the pool may open for what needs one to itself (waiting for replicas)
    #[arg(id = "redis-pool-size", long, env = "LOCKABLE_REDIS_POOL_SIZE", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024), value_name = "N")]
    pub pool_size: u32,

    /// Without Redis: how much memory locks and waiting requests may take in this process, in bytes or with a unit such as MiB. Beyond it acquires are answered 503; heartbeats and releases go on
    #[arg(id = "embedded-memory", long, env = "LOCKABLE_EMBEDDED_MEMORY", default_value = "256MiB", value_parser = bytes, value_name = "BYTES")]
    pub embedded_memory: u64,
}

/// Braces would move the hash tag; white space and colons would make keys hard to read.
fn prefix(text: &str) -> Result<String, String> {
    let sound = (1..=32).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if sound { Ok(text.into()) } else { Err("1 to 32 letters, digits, \"-\", \"_\" or \".\"".into()) }
}
