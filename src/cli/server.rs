use std::{env, fs, path::PathBuf};

use clap::{ArgMatches, Args, Command, FromArgMatches, ValueHint, parser::ValueSource};

use super::{
    args::address,
    failure::Failure,
    profile::{Profile, Profiles},
};
use crate::client::Client;

const TOKEN: &str = "LOCKABLE_AUTH_TOKEN";

/// Where the server is, and the token for it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
struct Flags {
    /// The server's address, such as `https://locks.example.com` [default: that of lockable login]
    #[arg(long, env = "LOCKABLE_URL", value_parser = address, value_hint = ValueHint::Url)]
    url: Option<String>,

    /// A file with the token on its first line
    #[arg(long, env = "LOCKABLE_TOKEN_FILE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    token_file: Option<PathBuf>,

    /// A file of CA certificates (PEM) to trust besides those of the system
    #[arg(long, env = "LOCKABLE_CA_FILE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    ca_file: Option<PathBuf>,

    /// Use the server and the token of this profile, which lockable login --profile made; variables do not change them
    #[arg(long, env = "LOCKABLE_PROFILE", value_name = "NAME")]
    profile: Option<String>,
}

/// [`Flags`], and which of them were given on the command line.
#[derive(Clone, Debug)]
pub struct ServerArgs {
    flags: Flags,
    has_url_flag: bool,
    has_token_flag: bool,
    has_ca_flag: bool,
}

/// The settings in force, and where each comes from.
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
    /// When a setting is missing, or cannot be read or used.
    pub(super) fn server(&self) -> Result<Server, Failure> {
        self.settings().map_err(Failure::Usage)
    }

    /// The profile that was asked for; the unnamed one if none was.
    pub(super) fn profile(&self) -> Option<&str> {
        self.flags.profile.as_deref()
    }

    /// What `lockable login` is told.
    pub(super) fn for_login(&self) -> (Option<String>, Option<PathBuf>, Option<PathBuf>) {
        (self.flags.url.clone(), self.flags.token_file.clone(), self.flags.ca_file.clone())
    }

    fn settings(&self) -> Result<Server, String> {
        // A profile that was asked for is not mixed with variables: the token of one server
        // must not reach another.
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
            true => self.remembered()?,
            false => (Profile::default(), String::new()),
        };

        let is_remembered = url.is_none();
        let (url, url_source) = match (url, profile.url) {
            (Some(url), _) => (url, from(self.has_url_flag, "--url", "LOCKABLE_URL")),
            (None, Some(url)) => (url, source.clone()),
            (None, None) => return Err("no server: set LOCKABLE_URL or --url, or run lockable login".to_owned()),
        };
        let (token, token_source) = match (token, profile.token) {
            (Some(found), _) => found,
            (None, Some(token)) if is_remembered => (token, source),
            _ => return Err(format!("no token: set {TOKEN} or LOCKABLE_TOKEN_FILE, or run lockable login")),
        };
        let ca_file = ca_file.or(profile.ca_file.filter(|_| is_remembered));
        let token = checked_token(&token, &token_source)?;
        Ok(Server { url, url_source, token, token_source, ca_file })
    }

    /// What `lockable login` has remembered, and what to call it.
    fn remembered(&self) -> Result<(Profile, String), String> {
        let profiles = Profiles::load()?;
        match &self.flags.profile {
            None => Ok((profiles.unnamed, "lockable login".to_owned())),
            Some(name) => match profiles.named.get(name) {
                Some(profile) => Ok((profile.clone(), format!("the profile {name}"))),
                None => {
                    let known: Vec<_> = profiles.named.keys().map(String::as_str).collect();
                    let known = match known.is_empty() {
                        true => "there are none".to_owned(),
                        false => format!("there are {}", known.join(", ")),
                    };
                    Err(format!("no profile {name:?} ({known}); make it with: lockable login --profile {name}"))
                }
            },
        }
    }
}

impl Server {
    /// # Errors
    /// When a setting cannot be used.
    pub fn client(&self) -> Result<Client, Failure> {
        let mut client = Client::builder(&self.url).token(&self.token);
        if let Some(path) = &self.ca_file {
            let pem = fs::read(path);
            client = client.ca(pem.map_err(|error| unreadable(path, &error))?);
        }
        client.build().map_err(|error| Failure::Usage(error.to_string()))
    }
}

/// A variable's value; an empty one counts as unset.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("{} cannot be read: {error}", path.display()))
}

/// The first line of a file.
pub(super) fn read_token_file(path: &std::path::Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Checks a token for what a copy and paste adds to it.
pub(super) fn checked_token(token: &str, source: &str) -> Result<String, String> {
    match token.trim() {
        "" => Err(format!("there is no token in {source}")),
        trimmed if trimmed.len() < token.len() => {
            Err(format!("the token in {source} has white space around it; remove that"))
        }
        trimmed if trimmed.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            Err(format!("the token in {source} has white space in it; is it the token alone?"))
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
