use std::time::Duration;

use super::duration;

/// Settings for a loss of grants in the store.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Recovery")]
pub struct RecoverySettings {
    /// Leases longer than this are written to the account database before the request is answered,
    /// and restored after Redis has lost them. After a loss of data, nothing is granted for this
    /// time plus 5 s; the largest value that any server was started with applies. From 1s to 1h
    #[arg(long, env = "LOCKABLE_JOURNAL_ABOVE", default_value = "60s", value_parser = journal_above, value_name = "DURATION")]
    pub journal_above: Duration,
}

fn journal_above(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
    duration(text).and_then(|found| {
        if bounds.contains(&found) { Ok(found) } else { Err("expected a duration from 1s to 1h".into()) }
    })
}
