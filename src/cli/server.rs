use std::{env, fs, path::PathBuf};

use crate::client::Client;

/// Where the server is, and as whom to ask it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// The server's address, such as `https://locks.example.com`
    #[arg(long, env = "LOCKABLE_URL", value_name = "URL")]
    url: String,

    /// A file with the token on its first line
    #[arg(long, env = "LOCKABLE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// A file of certificates (PEM) to trust beside those that the system trusts
    #[arg(long, env = "LOCKABLE_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl ServerArgs {
    /// # Errors
    /// When a setting cannot be used, in words for the user.
    pub fn client(&self) -> Result<Client, String> {
        let mut client = Client::builder(&self.url).token(self.token()?);
        if let Some(path) = &self.ca_file {
            client = client.ca(fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?);
        }
        client.build().map_err(|error| error.to_string())
    }

    fn token(&self) -> Result<String, String> {
        let token = match &self.token_file {
            Some(path) => {
                let text = fs::read_to_string(path);
                text.map_err(|error| format!("{} cannot be read: {error}", path.display()))?
            }
            None => env::var("LOCKABLE_AUTH_TOKEN").unwrap_or_default(),
        };
        match token.lines().next().map(str::trim) {
            Some(token) if !token.is_empty() => Ok(token.to_owned()),
            _ => Err("there is no token: set LOCKABLE_AUTH_TOKEN or LOCKABLE_TOKEN_FILE".to_owned()),
        }
    }
}
