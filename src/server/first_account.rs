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

/// The secrets that open the account which the first start makes.
pub(super) struct FirstAccount {
    token: Token,
    /// Sets a password.
    link: Secret,
}

/// How long the link works.
const LINK_VALID: Duration = Duration::from_secs(24 * 3600);

/// The first line of the text. A file that begins with it may be replaced.
const HEADING: &str = "Lockable made the first account.";

impl FirstAccount {
    /// Makes the account in an empty database.
    pub(super) async fn make(database: &Database) -> Result<Option<Self>, AccountsError> {
        let Some(made) = database.first_account().await? else { return Ok(None) };
        let link = database.reset_password(Actor::Server, &made.account.id.to_string(), LINK_VALID).await?;
        Ok(Some(Self { token: made.token.token, link }))
    }

    /// Hands the secrets over, once: on a terminal, or in a file. Other standard outputs are
    /// captured (`docker logs`, a journal), and read by more people than may open the account.
    pub(super) fn hand_over(&self, settings: &ServeSettings, origin: &str) {
        let text = Shown { account: self, origin };
        if io::stdout().is_terminal() {
            return print(&text);
        }
        let file = settings.admin.first_token_file.clone().unwrap_or_else(|| beside(settings.database.file()));
        let file = std::path::absolute(&file).unwrap_or(file);
        match write(&file, &text.to_string()) {
            Ok(()) => tracing::warn!(
                file = %file.display(),
                "made the first account; its token is in a file that only this user can read: read it, then delete it"
            ),
            Err(error) => tracing::error!(
                file = %file.display(),
                %error,
                "made the first account, but cannot write its token into the file; make another with lockable token \
                 create --account owner@localhost"
            ),
        }
    }
}

#[expect(clippy::print_stdout, reason = "a person at a terminal reads this, and no log has it")]
fn print(text: &Shown<'_>) {
    println!("{text}");
}

/// The secrets, with a line to copy.
struct Shown<'a> {
    account: &'a FirstAccount,
    origin: &'a str,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, origin } = self;
        let (token, link) = (account.token.reveal(), account.link.reveal());
        writeln!(f, "{HEADING} Its token, shown this once:\n\n    {token}\n\nTry it:\n")?;
        writeln!(f, "    curl -u {token}: {origin}/v1/acquire/my-lock-name\n")?;
        writeln!(f, "Its page, with a password of your choice (the link works once, within a day):\n")?;
        writeln!(f, "    {origin}/account/link/{link}")
    }
}

/// Where the secrets go unless set.
fn beside(database: Option<PathBuf>) -> PathBuf {
    let mut name = database.unwrap_or_else(|| PathBuf::from("lockable")).into_os_string();
    name.push(".first-token");
    name.into()
}

/// Writes a new file for this user alone. Whatever else has the name stays as it is: a setting
/// that names the wrong file, or a link that somebody laid there, must not cost a file.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match create() {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && is_replaceable(path) => {
            // Of an earlier database, which is gone.
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

/// The address by which a person on this machine reaches a server that listens there. A container
/// listens on all addresses, and browsers keep no session with those.
pub(super) fn nearby(listening: SocketAddr) -> String {
    match listening.ip().is_unspecified() {
        true => format!("localhost:{}", listening.port()),
        false => listening.to_string(),
    }
}
