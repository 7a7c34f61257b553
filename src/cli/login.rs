//! `lockable login` and `logout`: which server and token are remembered.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use super::{
    failure::Failure,
    profile::{Profile, Profiles},
    say,
    server::{Server, ServerArgs, checked_token, read_token_file},
};
use crate::exit::Exit;

/// Remember a server and a token
///
/// The token is asked for, or read from --token-file or standard input, and tried first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 remembered, 2 wrong usage, 69 the server could not be asked, or does not accept the token

Examples:
  lockable login --url https://locks.example.com
  lockable login --url https://locks.example.com --token-file /run/secrets/lockable
  lockable login --profile staging --url https://staging.example.com
  lockable status --profile staging deploy")]
pub struct Login {
    #[command(flatten)]
    server: ServerArgs,
}

/// Forget the server and the token that lockable login has remembered
///
/// The token stays valid: revoke it on the account page.
#[derive(Debug, clap::Args)]
pub struct Logout {
    /// Forget this profile
    #[arg(long, env = "LOCKABLE_PROFILE", value_name = "NAME", conflicts_with = "all")]
    profile: Option<String>,

    /// Forget all profiles
    #[arg(long)]
    all: bool,
}

/// Asks for the token, tries it, and remembers it with the address.
pub(super) async fn login(login: &Login) -> Result<Exit, Failure> {
    let path = path()?;
    let mut profiles = Profiles::load().map_err(Failure::Usage)?;
    let profile = profiles.entry(login.server.profile());
    let (url, token_file, ca_file) = login.server.for_login();
    let Some(url) = url.or_else(|| profile.url.clone()) else {
        return Err(Failure::Usage("no server: set --url".to_owned()));
    };
    let token = read_token(token_file.as_deref()).map_err(Failure::Usage)?;
    let ca_file = ca_file.as_deref().map(std::path::absolute).transpose();
    let ca_file = ca_file.map_err(|error| Failure::Usage(error.to_string()))?;
    let token_source = token_file.map_or("this login".to_owned(), |path| path.display().to_string());
    let server = Server { url, url_source: String::new(), token, token_source, ca_file };
    if let Err(error) = server.client()?.account().await {
        return Err(match server.failure(&error) {
            Failure::Unavailable(reason) => Failure::Unavailable(format!("not remembered: {reason}")),
            failure => failure,
        });
    }
    let others = std::mem::take(&mut profile.others);
    *profile = Profile { url: Some(server.url), token: Some(server.token), ca_file: server.ca_file, others };
    save(&profiles, &path)?;
    say(&format!("remembered in {}", path.display()));
    Ok(Exit::SUCCESS)
}

/// Forgets a profile, or all of them.
pub(super) fn logout(logout: &Logout) -> Result<Exit, Failure> {
    let path = path()?;
    if logout.all {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unwritable(&path, &error)),
            _ => Ok(Exit::SUCCESS),
        };
    }
    let mut profiles = Profiles::load().map_err(Failure::Usage)?;
    match &logout.profile {
        Some(name) if profiles.named.remove(name).is_none() => {
            return Err(Failure::Usage(format!("no profile {name:?}")));
        }
        Some(_) => {}
        None => {
            let others = std::mem::take(&mut profiles.unnamed.others);
            profiles.unnamed = Profile { others, ..Profile::default() };
        }
    }
    save(&profiles, &path)?;
    say("forgotten; the token stays valid until it is revoked on the account page");
    Ok(Exit::SUCCESS)
}

fn path() -> Result<PathBuf, Failure> {
    Profiles::path().ok_or_else(|| Failure::Usage("no folder for settings: HOME is not set".to_owned()))
}

fn save(profiles: &Profiles, path: &Path) -> Result<(), Failure> {
    profiles.save(path).map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::Unavailable(format!("{} cannot be written: {error}", path.display()))
}

/// The token, which a terminal does not show.
fn read_token(file: Option<&Path>) -> Result<String, String> {
    if let Some(path) = file {
        return checked_token(&read_token_file(path)?, &path.display().to_string());
    }
    let unreadable = |error: io::Error| format!("the token cannot be read: {error}");
    let (token, source) = match io::stdin().is_terminal() {
        true => (rpassword::prompt_password("Token: ").map_err(unreadable)?, "this login"),
        false => {
            let mut line = String::new();
            io::stdin().read_line(&mut line).map_err(unreadable)?;
            (line, "standard input")
        }
    };
    checked_token(token.trim_end_matches(['\r', '\n']), source)
}
