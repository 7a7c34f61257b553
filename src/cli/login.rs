use std::io::{self, IsTerminal};

use super::{
    fail,
    profile::Profile,
    say,
    server::{Server, ServerArgs},
};

/// What `lockable login` takes.
#[derive(Debug, clap::Args)]
pub struct Login {
    #[command(flatten)]
    server: ServerArgs,
}

/// Asks for the token, tries it, and remembers it with the address. Returns the
/// exit code.
pub(super) async fn login(login: &Login) -> u8 {
    let Some(url) = login.server.url.clone() else { return fail("which server? set --url") };
    let Some(path) = Profile::path() else { return fail("there is no place for settings: HOME is not set") };
    let token = match read_token() {
        Ok(token) if !token.is_empty() => token,
        Ok(_) => return fail("there is no token on standard input"),
        Err(error) => return fail(&format!("the token cannot be read: {error}")),
    };
    let ca_file = match login.server.ca_file.as_deref().map(std::path::absolute).transpose() {
        Ok(ca_file) => ca_file,
        Err(error) => return fail(&error.to_string()),
    };
    let server = Server { url, url_source: "", token, token_source: String::new(), ca_file };
    let client = match server.client() {
        Ok(client) => client,
        Err(reason) => return fail(&reason),
    };
    if let Err(error) = client.account().await {
        return fail(&format!("not remembered: {error}"));
    }
    let profile = Profile { url: Some(server.url), token: Some(server.token), ca_file: server.ca_file };
    match profile.save(&path) {
        Ok(()) => {
            say(&format!("remembered in {}", path.display()));
            0
        }
        Err(error) => fail(&format!("{} cannot be written: {error}", path.display())),
    }
}

/// The token, which nobody sees who looks at the screen.
fn read_token() -> io::Result<String> {
    let token = match io::stdin().is_terminal() {
        true => rpassword::prompt_password("Token: ")?,
        false => {
            let mut line = String::new();
            io::stdin().read_line(&mut line)?;
            line
        }
    };
    Ok(token.trim().to_owned())
}
