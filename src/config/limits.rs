use std::time::Duration;

use super::duration;

/// What one client may cost, and all of those who wait.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitSettings {
    /// How many failed authentications one client address may make a minute
    #[arg(long, env = "LOCKABLE_AUTH_FAILURES_PER_MINUTE", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub auth_failures_per_minute: u32,

    /// How many requests to work on at once; more are refused, but for heartbeats and releases. Those that wait for a lock, or for their token to be looked up, are not counted
    #[arg(long, env = "LOCKABLE_REQUESTS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub requests: u32,

    /// For how long a request may wait for a lock; less than balancers let a connection be silent
    #[arg(long, env = "LOCKABLE_WAIT_MAX", default_value = "55s", value_parser = duration, value_name = "DURATION")]
    pub wait_max: Duration,

    /// How many requests may wait at once in this server; fewer than there may be connections
    #[arg(long, env = "LOCKABLE_WAITERS", default_value_t = 15_000, value_name = "N")]
    pub waiters: u32,
}
