//! `lockable login` and `logout`: the saved server and token.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use super::{
    error::CliError,
    print_message,
    profile::{Profile, Profiles},
    server::{Server, ServerArgs, checked_token, read_token_file},
};
use crate::exit::Exit;

/// Save a server and a token for later commands
///
/// Reads the token from a prompt, --token-file or standard input, and saves it only if the server accepts it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 saved, 2 usage error, 69 the server is unreachable or rejected the token

Examples:
  lockable login --url https://locks.example.com
  lockable login --url https://locks.example.com --token-file /run/secrets/lockable
  lockable login --profile staging --url https://staging.example.com
  lockable status --profile staging deploy")]
pub struct LoginArgs {
    #[command(flatten)]
    server: ServerArgs,
}

/// Remove the server and the token that lockable login saved
///
/// The token stays valid until you revoke it on the account page.
#[derive(Debug, clap::Args)]
pub struct LogoutArgs {
    /// Remove this profile
    #[arg(long, env = "LOCKABLE_PROFILE", value_name = "NAME", conflicts_with = "all")]
    profile: Option<String>,

    /// Remove all profiles
    #[arg(long)]
    all: bool,
}

/// Reads the token, checks it with the server, and saves it with the address.
pub(super) async fn login(args: &LoginArgs) -> Result<Exit, CliError> {
    let path = path()?;
    let mut profiles = Profiles::load().map_err(CliError::Usage)?;
    let profile = profiles.entry(args.server.profile());
    let (url, token_file, ca_file) = args.server.for_login();
    let Some(url) = url.or_else(|| profile.url.clone()) else {
        return Err(CliError::Usage("no server address: set --url".to_owned()));
    };
    let token = read_token(token_file.as_deref()).map_err(CliError::Usage)?;
    let ca_file = ca_file.as_deref().map(std::path::absolute).transpose();
    let ca_file = ca_file.map_err(|error| CliError::Usage(error.to_string()))?;
    let token_source = token_file.map_or("this login".to_owned(), |path| path.display().to_string());
    let server = Server { url, url_source: String::new(), token, token_source, ca_file };
    if let Err(error) = server.client()?.account().await {
        return Err(match server.cli_error(&error) {
            CliError::Unavailable(reason) => CliError::Unavailable(format!("nothing is saved: {reason}")),
            error => error,
        });
    }
    let others = std::mem::take(&mut profile.others);
    *profile = Profile { url: Some(server.url), token: Some(server.token), ca_file: server.ca_file, others };
    save(&profiles, &path)?;
    print_message(&format!("saved the server and the token in {}", path.display()));
    Ok(Exit::SUCCESS)
}

/// Removes a profile, or all of them.
pub(super) fn logout(args: &LogoutArgs) -> Result<Exit, CliError> {
    let path = path()?;
    if args.all {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unwritable(&path, &error)),
            _ => Ok(Exit::SUCCESS),
        };
    }
    let mut profiles = Profiles::load().map_err(CliError::Usage)?;
    match &args.profile {
        Some(name) if profiles.named.remove(name).is_none() => {
            return Err(CliError::Usage(format!("there is no profile {name:?}")));
        }
        Some(_) => {}
        None => {
            let others = std::mem::take(&mut profiles.unnamed.others);
            profiles.unnamed = Profile { others, ..Profile::default() };
        }
    }
    save(&profiles, &path)?;
    print_message("removed the saved token; it stays valid until you revoke it on the account page");
    Ok(Exit::SUCCESS)
}

fn path() -> Result<PathBuf, CliError> {
    Profiles::path()
        .ok_or_else(|| CliError::Usage("no folder for the settings: set HOME or XDG_CONFIG_HOME".to_owned()))
}

fn save(profiles: &Profiles, path: &Path) -> Result<(), CliError> {
    profiles.save(path).map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> CliError {
    CliError::Unavailable(format!("cannot write {}: {error}", path.display()))
}

/// Reads the token. A terminal does not show it.
fn read_token(file: Option<&Path>) -> Result<String, String> {
    if let Some(path) = file {
        return checked_token(&read_token_file(path)?, &path.display().to_string());
    }
    let unreadable = |error: io::Error| format!("cannot read the token: {error}");
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
