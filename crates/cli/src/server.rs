use std::{env, fs, path::PathBuf};

use clap::{ArgMatches, Args, Command, FromArgMatches, ValueHint, parser::ValueSource};
use lockable_client::Client;

use super::{
    args::address,
    error::CliError,
    profile::{Profile, Profiles},
};

const TOKEN: &str = "LOCKABLE_AUTH_TOKEN";

/// The options for the server and the token.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
struct Flags {
    /// The server's address, such as `https://locks.example.com` [default: the address saved by lockable login]
    #[arg(long, env = "LOCKABLE_URL", value_parser = address, value_hint = ValueHint::Url)]
    url: Option<String>,

    /// A file with the token on its first line
    #[arg(long, env = "LOCKABLE_TOKEN_FILE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    token_file: Option<PathBuf>,

    /// A file of CA certificates (PEM) to trust in addition to the system's
    #[arg(long, env = "LOCKABLE_CA_FILE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    ca_file: Option<PathBuf>,

    /// Use the server and the token of this profile, saved by lockable login --profile; variables do not override them
    #[arg(long, env = "LOCKABLE_PROFILE", value_name = "NAME")]
    profile: Option<String>,
}

/// [`Flags`], with the options that the command line sets.
#[derive(Clone, Debug)]
pub struct ServerArgs {
    flags: Flags,
    has_url_flag: bool,
    has_token_flag: bool,
    has_ca_flag: bool,
}

/// The effective settings and their sources.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub url: String,
    pub url_source: String,
    pub token: String,
    pub token_source: String,
    pub ca_file: Option<PathBuf>,
}

impl ServerArgs {
    /// # Errors
    /// When a setting is missing, unreadable or invalid.
    pub(super) fn server(&self) -> Result<Server, CliError> {
        self.settings().map_err(CliError::Usage)
    }

    /// The selected profile; `None` is the unnamed profile.
    pub(super) fn profile(&self) -> Option<&str> {
        self.flags.profile.as_deref()
    }

    /// The address, the token file and the CA file for `lockable login`.
    pub(super) fn for_login(&self) -> (Option<String>, Option<PathBuf>, Option<PathBuf>) {
        (self.flags.url.clone(), self.flags.token_file.clone(), self.flags.ca_file.clone())
    }

    fn settings(&self) -> Result<Server, String> {
        // A selected profile is not mixed with variables: the token of one server must not be sent
        // to another.
        let is_named = self.flags.profile.is_some();
        let from = |has_flag: bool, flag: &str, variable: &str| if has_flag { flag } else { variable }.to_owned();
        let given = |has_flag: bool| has_flag || !is_named;
        let url = self.flags.url.clone().filter(|_| given(self.has_url_flag));
        let token = match (&self.flags.token_file, variable(TOKEN)) {
            (Some(path), _) if given(self.has_token_flag) => Some((read_token_file(path)?, path.display().to_string())),
            (_, Some(token)) if !is_named => Some((token, TOKEN.to_owned())),
            _ => None,
        };
        let ca_file = self.flags.ca_file.clone().filter(|_| given(self.has_ca_flag));
        let (profile, source) = match is_named || url.is_none() || token.is_none() {
            true => self.saved_profile()?,
            false => (Profile::default(), String::new()),
        };

        let is_saved = url.is_none();
        let (url, url_source) = match (url, profile.url) {
            (Some(url), _) => (url, from(self.has_url_flag, "--url", "LOCKABLE_URL")),
            (None, Some(url)) => (url, source.clone()),
            (None, None) => {
                return Err("no server address: set LOCKABLE_URL or --url, or run lockable login".to_owned());
            }
        };
        let (token, token_source) = match (token, profile.token) {
            (Some(found), _) => found,
            (None, Some(token)) if is_saved => (token, source),
            _ => return Err(format!("no token: set {TOKEN} or LOCKABLE_TOKEN_FILE, or run lockable login")),
        };
        let ca_file = ca_file.or(profile.ca_file.filter(|_| is_saved));
        let token = checked_token(&token, &token_source)?;
        Ok(Server { url, url_source, token, token_source, ca_file })
    }

    /// The saved profile, and its description as a source.
    fn saved_profile(&self) -> Result<(Profile, String), String> {
        let profiles = Profiles::load()?;
        match &self.flags.profile {
            None => Ok((profiles.unnamed, "lockable login".to_owned())),
            Some(name) => match profiles.named.get(name) {
                Some(profile) => Ok((profile.clone(), format!("the profile {name}"))),
                None => {
                    let names: Vec<_> = profiles.named.keys().map(String::as_str).collect();
                    let names = match names.is_empty() {
                        true => "none is saved".to_owned(),
                        false => format!("saved profiles: {}", names.join(", ")),
                    };
                    Err(format!(
                        "there is no profile {name:?} ({names}); create it with: lockable login --profile {name}"
                    ))
                }
            },
        }
    }
}

impl Server {
    /// # Errors
    /// When a setting is invalid.
    pub fn client(&self) -> Result<Client, CliError> {
        let mut client = Client::builder(&self.url).token(&self.token);
        if let Some(path) = &self.ca_file {
            let pem = fs::read(path);
            client = client.ca(pem.map_err(|error| unreadable(path, &error))?);
        }
        client.build().map_err(|error| CliError::Usage(error.to_string()))
    }
}

/// A variable's value; an empty one counts as unset.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn unreadable(path: &std::path::Path, error: &std::io::Error) -> CliError {
    CliError::Usage(format!("cannot read {}: {error}", path.display()))
}

/// The first line of a file.
pub(super) fn read_token_file(path: &std::path::Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Rejects the white space that copy and paste adds to a token.
pub(super) fn checked_token(token: &str, source: &str) -> Result<String, String> {
    match token.trim() {
        "" => Err(format!("there is no token in {source}")),
        trimmed if trimmed.len() < token.len() => {
            Err(format!("the token in {source} begins or ends with white space; remove it"))
        }
        trimmed if trimmed.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            Err(format!("the token in {source} contains white space; set the token only"))
        }
        trimmed => Ok(trimmed.to_owned()),
    }
}

impl FromArgMatches for ServerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_flag = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        Ok(Self {
            has_url_flag: is_flag("url"),
            has_token_flag: is_flag("token_file"),
            has_ca_flag: is_flag("ca_file"),
            flags: Flags::from_arg_matches(matches)?,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ServerArgs {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}
