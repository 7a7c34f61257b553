//! Every setting with its flag, environment variable, default and unit: one struct per topic. A
//! flag overrides the environment variable.

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

/// The settings of `lockable serve`.
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

/// Parses a duration in the API's syntax, such as `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    parse_duration_ms(text).map(Duration::from_millis).map_err(|error| error.to_string())
}

/// Parses a memory size: a number of bytes, or a number with the unit KiB, MiB or GiB.
fn bytes(text: &str) -> Result<u64, String> {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];
    let read = units.into_iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?.parse::<u64>().ok()?, size)));
    let bytes = read.and_then(|(number, size)| number.checked_mul(size)).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "expected a whole number of bytes above 0, optionally with the unit KiB, MiB or GiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_size_is_parsed_with_and_without_unit() {
        for (text, expected) in [("1", 1), ("4096", 4096), ("64KiB", 65_536), ("256MiB", 1 << 28), ("2GiB", 1 << 31)] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "0MiB", "-1", "1.5GiB", "12MB", "MiB", "99999999999GiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
