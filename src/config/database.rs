use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::SecretUrl;

/// The account database.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Account database")]
pub struct DatabaseSettings {
    /// Account database: postgres://… or sqlite:FILE, or `file:PATH` to read the URL from the first
    /// line of a file
    #[arg(
        id = "database-url",
        long,
        env = "LOCKABLE_DATABASE_URL",
        hide_env_values = true,
        default_value = "sqlite:lockable.db",
        value_name = "URL"
    )]
    pub url: SecretUrl,

    /// Whether `serve` migrates the database schema at start, like `lockable migrate`
    #[arg(id = "database-migrate", long, env = "LOCKABLE_DATABASE_MIGRATE", default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false")]
    pub migrate: bool,

    /// Maximum number of database connections
    #[arg(id = "database-connections", long, env = "LOCKABLE_DATABASE_CONNECTIONS", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    pub connections: u32,
}

impl DatabaseSettings {
    /// File of an embedded database. The URL is parsed like its driver does: percent-decoded, up to
    /// the first question mark.
    pub fn file(&self) -> Option<PathBuf> {
        let path = self.url.reveal().strip_prefix("sqlite:")?;
        let path = path.strip_prefix("//").unwrap_or(path).split('?').next()?;
        Some(PathBuf::from(&*percent_decode_str(path).decode_utf8().ok()?))
    }
}
