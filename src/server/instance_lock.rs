use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
};

use anyhow::{Context, bail};

use crate::config::DatabaseSettings;

/// Locks the file of the embedded database: two servers that store locks in their own memory would
/// grant the same lock twice. The file is locked, not its name, so that links and other spellings
/// of the path find the same lock.
///
/// SQLite uses POSIX locks, which do not conflict with this `flock`. Closing the file would release
/// them, so it stays open.
pub(super) struct InstanceLock {
    _file: File,
}

impl InstanceLock {
    /// Creates a missing file, readable for this user only. Call this before SQLite opens the file.
    ///
    /// # Errors
    /// If another server uses the database, or the file cannot be created.
    pub(super) fn acquire(database: &DatabaseSettings) -> anyhow::Result<Self> {
        let path = database.file().context("LOCKABLE_DATABASE_URL does not name a file")?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => bail!(
                "another server uses this database and stores locks in its own memory; set LOCKABLE_REDIS_URL to run several servers"
            ),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}
