use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What `lockable login` remembers, in one file: the unnamed profile, and those with names.
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
    /// Members of later versions, which this one keeps.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

impl Profiles {
    /// Where they are: `lockable/profile.json` in the user's folder for settings, by the XDG
    /// base directory specification.
    pub fn path() -> Option<PathBuf> {
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
        Some(folder.join("lockable").join("profile.json"))
    }

    /// Reads them; none if there never was a login.
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
            return Err(unusable("others can read it; chmod 600 changes that".to_owned()));
        }
        let text = fs::read_to_string(&path).map_err(|error| unusable(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))
    }

    /// The profile of this name, or the unnamed one.
    pub fn entry(&mut self, name: Option<&str>) -> &mut Profile {
        match name {
            Some(name) => self.named.entry(name.to_owned()).or_default(),
            None => &mut self.unnamed,
        }
    }

    /// Writes them, for this user alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // Written beside it and renamed, so that it is whole or not there.
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        fs::rename(&new, path)
    }
}
