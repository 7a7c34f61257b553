use std::time::Duration;

use super::duration;

/// Limits per client and per server.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitSettings {
    /// Failed authentications allowed per minute and client address
    #[arg(long, env = "LOCKABLE_AUTH_FAILURES_PER_MINUTE", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub auth_failures_per_minute: u32,

    /// Maximum number of requests in flight; the server rejects further requests with 503, except
    /// heartbeats and releases. Queued requests and token lookups do not count
    #[arg(long, env = "LOCKABLE_REQUESTS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub requests: u32,

    /// Maximum time that a request waits for a lock; must be shorter than the idle timeout of load
    /// balancers
    #[arg(long, env = "LOCKABLE_WAIT_MAX", default_value = "55s", value_parser = duration, value_name = "DURATION")]
    pub wait_max: Duration,

    /// Maximum number of queued requests in this server; must be lower than `LOCKABLE_CONNECTIONS`
    #[arg(long, env = "LOCKABLE_WAITERS", default_value_t = 15_000, value_name = "N")]
    pub waiters: u32,
}
