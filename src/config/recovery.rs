use std::time::Duration;

use super::duration;

/// What happens when the store may have forgotten grants.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Recovery")]
pub struct RecoverySettings {
    /// Leases longer than this are written to the account database before they are answered, and put back when Redis has lost them. After a loss nothing is granted for so long, and 5 s more; the longest that any server was ever started with counts. From 1s to 1h
    #[arg(long, env = "LOCKABLE_JOURNAL_ABOVE", default_value = "60s", value_parser = journal_above, value_name = "DURATION")]
    pub journal_above: Duration,
}

fn journal_above(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
    duration(text).and_then(|found| if bounds.contains(&found) { Ok(found) } else { Err("from 1s to 1h".into()) })
}
