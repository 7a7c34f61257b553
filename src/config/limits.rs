/// What one client may cost.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitSettings {
    /// How many failed authentications one client address may make a minute
    #[arg(long, env = "LOCKABLE_AUTH_FAILURES_PER_MINUTE", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub auth_failures_per_minute: u32,
}
