use std::{fs::File, path::PathBuf};

use anyhow::{Context, bail};

use crate::config::SecretUrl;

/// Holds a file lock next to the embedded database for as long as it lives: two
/// servers with locks of their own would grant the same lock twice.
pub(super) struct Exclusive {
    _file: File,
}

impl Exclusive {
    /// # Errors
    /// When another server has the database, or the file cannot be made.
    pub(super) fn hold(database: &SecretUrl) -> anyhow::Result<Self> {
        let url = database.reveal();
        let path = url.strip_prefix("sqlite:").unwrap_or(url).trim_start_matches("//");
        let path = PathBuf::from(format!("{}.lock", path.split('?').next().unwrap_or_default()));
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => bail!(
                "another server uses this database and keeps locks of its own; for several servers set LOCKABLE_REDIS_URL"
            ),
            Err(std::fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }
}
