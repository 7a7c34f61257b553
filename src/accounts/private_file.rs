use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Creates a missing SQLite file, readable for this user only. SQLite gives the files beside a
/// database (`-wal`, `-shm`) the permissions of the database.
///
/// SQLite reports a file that cannot be created.
pub(super) fn create(path: &Path) {
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
}

/// Logs the files of an existing database that other users can read or write. Their permissions
/// stay: they may be intended for a group.
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
