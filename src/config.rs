//! Every setting: its flag, its variable, its default and its unit. One struct
//! per concern; each is read from flags first, then from the environment.

mod admin;
mod database;
mod in_force;
mod limits;
mod listen;
mod log;
mod page;
mod recovery;
mod redis;
mod secret;
mod traces;

pub use self::{
    admin::AdminSettings,
    database::DatabaseSettings,
    in_force::{InForce, in_force},
    limits::LimitSettings,
    listen::{ListenSettings, TlsSettings},
    log::{LogFormat, LogSettings},
    page::{PageSettings, PublicUrl},
    recovery::RecoverySettings,
    redis::RedisSettings,
    secret::SecretUrl,
    traces::TraceSettings,
};

use std::time::Duration;

use crate::lock::parse_duration_ms;

/// What `lockable serve` needs to know.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeSettings {
    #[command(flatten)]
    pub listen: ListenSettings,
    #[command(flatten)]
    pub redis: RedisSettings,
    #[command(flatten)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    pub recovery: RecoverySettings,
    #[command(flatten)]
    pub limits: LimitSettings,
    #[command(flatten)]
    pub page: PageSettings,
    #[command(flatten)]
    pub admin: AdminSettings,
    #[command(flatten)]
    pub log: LogSettings,
    #[command(flatten)]
    pub traces: TraceSettings,
}

/// Reads a duration in the form that the API has for it, such as `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    parse_duration_ms(text).map(Duration::from_millis).map_err(|error| error.to_string())
}
