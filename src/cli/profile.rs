use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// What `lockable login` remembers: settings for which there is no variable.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub url: Option<String>,
    pub token: Option<String>,
    pub ca_file: Option<PathBuf>,
}

impl Profile {
    /// Where it is: `lockable/profile.json` in the user's place for settings, by
    /// the XDG base directory specification.
    pub fn path() -> Option<PathBuf> {
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
        Some(folder.join("lockable").join("profile.json"))
    }

    /// What is remembered; nothing if there never was a login.
    ///
    /// # Errors
    /// When the file cannot be read, or others can read it.
    pub fn load() -> Result<Self, String> {
        let Some(path) = Self::path() else { return Ok(Self::default()) };
        let unusable = |reason: String| format!("{} cannot be used: {reason}", path.display());
        let mode = match fs::metadata(&path) {
            Ok(metadata) => metadata.permissions().mode(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(unusable(error.to_string())),
        };
        if mode & 0o077 != 0 {
            return Err(unusable("others can read it; chmod 600 mends that".to_owned()));
        }
        let text = fs::read_to_string(&path).map_err(|error| unusable(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))
    }

    /// Remembers it, for this user alone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // Written beside it and put in its place, so that it is whole or not there.
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        fs::rename(&new, path)
    }
}
