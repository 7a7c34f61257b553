/// Logs, on standard error.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Logs")]
pub struct LogSettings {
    /// One line of text, or one JSON object, for each event
    #[arg(id = "log-format", long, env = "LOCKABLE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub format: LogFormat,

    /// What to log: error, warn, info, debug or trace, also by target (info,lockable=debug)
    #[arg(id = "log", long, env = "LOCKABLE_LOG", default_value = "info,sqlx=warn", value_name = "FILTER")]
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}
