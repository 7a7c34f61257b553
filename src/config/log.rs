/// Log settings. Logs go to standard error.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Logs")]
pub struct LogSettings {
    /// Log format: one line of text or one JSON object per event
    #[arg(id = "log-format", long, env = "LOCKABLE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub format: LogFormat,

    /// Log level: error, warn, info, debug or trace; also per target (info,lockable=debug)
    #[arg(id = "log", long, env = "LOCKABLE_LOG", default_value = "info,sqlx=warn", value_name = "FILTER")]
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}
