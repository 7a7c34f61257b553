use std::{env, fs, path::PathBuf};

use super::profile::Profile;
use crate::client::Client;

/// Where the server is, and as whom to ask it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// The server's address, such as `https://locks.example.com`; that of `lockable login` unless set
    #[arg(long, env = "LOCKABLE_URL", value_name = "URL")]
    pub(super) url: Option<String>,

    /// A file with the token on its first line
    #[arg(long, env = "LOCKABLE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// A file of certificates (PEM) to trust beside those that the system trusts
    #[arg(long, env = "LOCKABLE_CA_FILE", value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
}

/// The settings that are in force, and where they come from.
pub(super) struct Server {
    pub url: String,
    pub url_source: &'static str,
    pub token: String,
    pub token_source: String,
    pub ca_file: Option<PathBuf>,
}

impl ServerArgs {
    /// # Errors
    /// When a setting cannot be used, in words for the user.
    pub fn client(&self) -> Result<Client, String> {
        self.server()?.client()
    }

    /// # Errors
    /// When a setting is missing or cannot be read.
    pub(super) fn server(&self) -> Result<Server, String> {
        let token_is_set = self.token_file.is_some() || env::var_os("LOCKABLE_AUTH_TOKEN").is_some();
        let profile = match self.url.is_some() && token_is_set {
            true => Profile::default(),
            false => Profile::load()?,
        };
        let (url, url_source) = match (&self.url, profile.url) {
            (Some(url), _) => (url.clone(), "LOCKABLE_URL or --url"),
            (None, Some(url)) => (url, "lockable login"),
            (None, None) => return Err("there is no server: set LOCKABLE_URL, or use lockable login".to_owned()),
        };
        let (token, token_source) = match (&self.token_file, env::var("LOCKABLE_AUTH_TOKEN"), profile.token) {
            (Some(path), _, _) => {
                let text = fs::read_to_string(path);
                let text = text.map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
                (text, path.display().to_string())
            }
            (None, Ok(token), _) => (token, "LOCKABLE_AUTH_TOKEN".to_owned()),
            // The token of one server is nothing for another.
            (None, Err(_), Some(token)) if url_source == "lockable login" => (token, url_source.to_owned()),
            _ => (String::new(), String::new()),
        };
        let ca_file = self.ca_file.clone().or(profile.ca_file);
        let token = token.lines().next().unwrap_or_default().trim().to_owned();
        if token.is_empty() {
            let ways = "set LOCKABLE_AUTH_TOKEN or LOCKABLE_TOKEN_FILE, or use lockable login";
            return Err(format!("there is no token: {ways}"));
        }
        Ok(Server { url, url_source, token, token_source, ca_file })
    }
}

impl Server {
    /// # Errors
    /// When a setting cannot be used, in words for the user.
    pub fn client(&self) -> Result<Client, String> {
        let mut client = Client::builder(&self.url).token(&self.token);
        if let Some(path) = &self.ca_file {
            client = client.ca(fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?);
        }
        client.build().map_err(|error| error.to_string())
    }
}
