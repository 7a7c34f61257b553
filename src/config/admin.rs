use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::duration;

/// What operators and their machines need to see, and how the server leaves.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Operation")]
pub struct AdminSettings {
    /// The address of /livez, /readyz and /metrics, which are for nobody outside; none unless set
    #[arg(long, env = "LOCKABLE_ADMIN_LISTEN", value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<SocketAddr>,

    /// How long to go on serving after SIGTERM, no longer ready, until balancers have noticed
    #[arg(long, env = "LOCKABLE_SHUTDOWN_DELAY", default_value = "0s", value_parser = duration, value_name = "DURATION")]
    pub shutdown_delay: Duration,

    /// Where the first start with SQLite writes the token and the link of the account that it makes, in a file that only its user can read; beside the database unless set. On a terminal it prints them instead
    #[arg(long, env = "LOCKABLE_FIRST_TOKEN_FILE", value_name = "FILE")]
    pub first_token_file: Option<PathBuf>,
}
