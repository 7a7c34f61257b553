use std::time::Duration;

use super::{SecretUrl, bytes, duration};

/// Settings of the store.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Store")]
pub struct RedisSettings {
    /// Redis 7.0 or newer, or Valkey: redis://, rediss://, redis+unix://, or redis+sentinel: or
    /// redis+cluster: with several hosts; `file:PATH` reads the URL from the first line of a file.
    /// Unset: this process keeps the locks in its own memory
    #[arg(id = "redis-url", long, env = "LOCKABLE_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub url: Option<SecretUrl>,

    /// Time limit for one operation in Redis, including the time to connect
    #[arg(id = "redis-timeout", long, env = "LOCKABLE_REDIS_TIMEOUT", default_value = "500ms", value_parser = duration, value_name = "DURATION")]
    pub timeout: Duration,

    /// Prefix of every Redis key
    #[arg(id = "redis-prefix", long, env = "LOCKABLE_REDIS_PREFIX", default_value = "lockable", value_parser = prefix, value_name = "TEXT")]
    pub prefix: String,

    /// Number of replicas that must acknowledge a grant before the request is answered
    #[arg(
        id = "redis-wait-replicas",
        long,
        env = "LOCKABLE_REDIS_WAIT_REPLICAS",
        default_value_t = 0,
        value_name = "N"
    )]
    pub wait_replicas: u32,

    /// Maximum number of pooled connections; the pool serves operations that need a connection of
    /// their own (waiting for replicas)
    #[arg(id = "redis-pool-size", long, env = "LOCKABLE_REDIS_POOL_SIZE", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024), value_name = "N")]
    pub pool_size: u32,

    /// Without Redis: maximum memory for locks and queued requests, in bytes or with a unit such as
    /// MiB. At the limit the server answers acquires with 503; heartbeats and releases continue
    #[arg(id = "embedded-memory", long, env = "LOCKABLE_EMBEDDED_MEMORY", default_value = "256MiB", value_parser = bytes, value_name = "BYTES")]
    pub embedded_memory: u64,
}

/// Rejects braces, which would move the hash tag, and white space and colons, which would make keys
/// hard to read.
fn prefix(text: &str) -> Result<String, String> {
    let is_valid = (1..=32).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if is_valid { Ok(text.into()) } else { Err("expected 1 to 32 letters, digits, \"-\", \"_\" or \".\"".into()) }
}
