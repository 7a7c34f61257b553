use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::duration;

/// Settings for operators: the admin listener, shutdown, and the first account.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Operation")]
pub struct AdminSettings {
    /// Address of the admin listener, which serves /livez, /readyz and /metrics; keep it private.
    /// Unset: no admin listener
    #[arg(long, env = "LOCKABLE_ADMIN_LISTEN", value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<SocketAddr>,

    /// How long the server keeps accepting connections after SIGTERM while /readyz reports 503, so
    /// that load balancers can remove it
    #[arg(long, env = "LOCKABLE_SHUTDOWN_DELAY", default_value = "0s", value_parser = duration, value_name = "DURATION")]
    pub shutdown_delay: Duration,

    /// File for the token and the sign-in link of the first account, which the first start with
    /// SQLite creates; only the server's user can read it. Default: beside the database file. On a
    /// terminal, the server prints them instead
    #[arg(long, env = "LOCKABLE_FIRST_TOKEN_FILE", value_name = "FILE")]
    pub first_token_file: Option<PathBuf>,
}
