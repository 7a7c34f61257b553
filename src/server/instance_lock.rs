use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
};

use anyhow::{Context, bail};

use crate::config::DatabaseSettings;

/// Holds a lock on the file of the embedded database for as long as it lives: two
/// servers with locks of their own would grant the same lock twice. It is on the file,
/// not on a name: links and other spellings of the path lead to the same one.
///
/// SQLite's own locks are of another kind (POSIX), which do not conflict with this one
/// (`flock`). They would end if the process closed the file: it stays open.
pub(super) struct Exclusive {
    _file: File,
}

impl Exclusive {
    /// To be called before SQLite opens the file, which is made if it is not there, for this user
    /// alone.
    ///
    /// # Errors
    /// When another server has the database, or the file cannot be made.
    pub(super) fn hold(database: &DatabaseSettings) -> anyhow::Result<Self> {
        let path = database.file().context("LOCKABLE_DATABASE_URL names no file")?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => bail!(
                "another server uses this database and keeps locks of its own; for several servers set LOCKABLE_REDIS_URL"
            ),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}
