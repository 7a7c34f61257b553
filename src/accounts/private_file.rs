use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Creates the file of an embedded database for this user alone, if it is not there. SQLite gives the
/// files that it lays beside a database (`-wal`, `-shm`) the permissions of the database.
///
/// SQLite complains of a file that cannot be created, in words of its own.
pub(super) fn create(path: &Path) {
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
}

/// Logs which files of an existing database other users can read or write. They stay so: a group may
/// have been given them on purpose.
pub(super) fn warn_if_shared(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = OsString::from(path);
        file.push(suffix);
        let Ok(metadata) = fs::metadata(&file) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(
                file = %Path::new(&file).display(),
                mode = %format_args!("{mode:04o}"),
                "other users of this machine can open the account database; run chmod 600 on the file"
            );
        }
    }
}
