use std::{
    fmt, fs,
    fs::OpenOptions,
    io::{self, ErrorKind, IsTerminal, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    accounts::{AccountsError, Actor, Database, Secret, Token},
    config::ServeSettings,
};

/// The secrets of the first account, which the first start creates.
pub(super) struct FirstAccount {
    token: Token,
    /// Secret of the link that sets a password.
    link: Secret,
}

/// Validity of the link.
const LINK_VALID: Duration = Duration::from_secs(24 * 3600);

/// First line of the text. A file that begins with it may be replaced.
const HEADING: &str = "Lockable created the first account.";

impl FirstAccount {
    /// Creates the account in an empty database.
    pub(super) async fn create(database: &Database) -> Result<Option<Self>, AccountsError> {
        let Some(created) = database.first_account().await? else { return Ok(None) };
        let link = database.reset_password(Actor::Server, &created.account.id.to_string(), LINK_VALID).await?;
        Ok(Some(Self { token: created.token.token, link }))
    }

    /// Prints the secrets on a terminal, or writes them to a file. Other standard outputs (`docker
    /// logs`, a journal) are captured, and more people read these than may use the account.
    pub(super) fn deliver(&self, settings: &ServeSettings, origin: &str) {
        let text = FirstAccountText { account: self, origin };
        if io::stdout().is_terminal() {
            return print(&text);
        }
        let file = settings.admin.first_token_file.clone().unwrap_or_else(|| beside(settings.database.file()));
        let file = std::path::absolute(&file).unwrap_or(file);
        match write(&file, &text.to_string()) {
            Ok(()) => tracing::warn!(
                file = %file.display(),
                "created the first account and wrote its token to a file that only this user can read; read it, then delete it"
            ),
            Err(error) => tracing::error!(
                file = %file.display(),
                %error,
                "created the first account, but cannot write its token to the file; create another token with \
                 `lockable token create --account owner@localhost`"
            ),
        }
    }
}

#[expect(clippy::print_stdout, reason = "printed on a terminal only, so that no log contains it")]
fn print(text: &FirstAccountText<'_>) {
    println!("{text}");
}

/// The text with the secrets and a command to copy.
struct FirstAccountText<'a> {
    account: &'a FirstAccount,
    origin: &'a str,
}

impl fmt::Display for FirstAccountText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, origin } = self;
        let (token, link) = (account.token.reveal(), account.link.reveal());
        writeln!(f, "{HEADING} Its token, which is shown only once:\n\n    {token}\n\nTry it:\n")?;
        writeln!(f, "    curl -u {token}: {origin}/v1/acquire/my-lock-name\n")?;
        writeln!(f, "Set a password and sign in (single-use link, valid for 24 hours):\n")?;
        writeln!(f, "    {origin}/account/link/{link}")
    }
}

/// The default file: beside the database.
fn beside(database: Option<PathBuf>) -> PathBuf {
    let mut name = database.unwrap_or_else(|| PathBuf::from("lockable")).into_os_string();
    name.push(".first-token");
    name.into()
}

/// Writes a new file that only this user can read. An existing file with other content or a link is
/// left alone, in case the setting names the wrong file or another user has placed a link.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match create() {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && is_replaceable(path) => {
            // The file belongs to an earlier database, which is gone.
            fs::remove_file(path)?;
            create()?
        }
        created => created?,
    };
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn is_replaceable(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
        && fs::read(path).is_ok_and(|text| text.starts_with(HEADING.as_bytes()))
}

/// The address for a person on this machine. A container listens on all addresses (0.0.0.0), for
/// which browsers store no session cookie.
pub(super) fn local_address(listening: SocketAddr) -> String {
    match listening.ip().is_unspecified() {
        true => format!("localhost:{}", listening.port()),
        false => listening.to_string(),
    }
}
