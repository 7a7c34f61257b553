use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The file of `lockable login`: the unnamed profile and the named profiles.
#[derive(Default, Deserialize, Serialize)]
pub(super) struct Profiles {
    #[serde(flatten)]
    pub unnamed: Profile,
    #[serde(default, rename = "profiles", skip_serializing_if = "BTreeMap::is_empty")]
    pub named: BTreeMap<String, Profile>,
}

/// A server and its token.
#[derive(Clone, Default, Deserialize, Serialize)]
pub(super) struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Fields of later versions, which are preserved.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

impl Profiles {
    /// The path of the file: `lockable/profile.json` in the user's configuration folder, as in the
    /// XDG base directory specification.
    pub fn path() -> Option<PathBuf> {
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
        Some(folder.join("lockable").join("profile.json"))
    }

    /// Reads the file. A missing file yields no profiles.
    ///
    /// # Errors
    /// When the file cannot be read, or other users can read it.
    pub fn load() -> Result<Self, String> {
        let Some(path) = Self::path() else { return Ok(Self::default()) };
        let unusable = |reason: String| format!("cannot use {}: {reason}", path.display());
        let mode = match fs::metadata(&path) {
            Ok(metadata) => metadata.permissions().mode(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(unusable(error.to_string())),
        };
        if mode & 0o077 != 0 {
            return Err(unusable("other users can read it; run chmod 600 on it".to_owned()));
        }
        let text = fs::read_to_string(&path).map_err(|error| unusable(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))
    }

    /// The profile with this name, or the unnamed profile.
    pub fn entry(&mut self, name: Option<&str>) -> &mut Profile {
        match name {
            Some(name) => self.named.entry(name.to_owned()).or_default(),
            None => &mut self.unnamed,
        }
    }

    /// Writes the file, readable by this user only.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // The rename is atomic: a crash leaves the old file or the new one.
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        fs::rename(&new, path)
    }
}
