use std::{fmt, fs, io, str::FromStr};

use url::{Position, Url};

/// A URL that may contain a password. `Debug` and `Display` mask it. The URL may name several
/// hosts, separated by commas.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl {
    /// The URL with the first host only.
    url: Url,
    /// The further hosts with optional ports, as written.
    more_hosts: Vec<String>,
}

impl SecretUrl {
    /// Returns the URL with its password and its first host only: for connecting, not for output.
    pub fn reveal(&self) -> &str {
        self.url.as_str()
    }

    /// Returns the parsed URL. Some parts are secrets.
    pub fn parts(&self) -> &Url {
        &self.url
    }

    pub fn scheme(&self) -> &str {
        self.url.scheme()
    }

    /// The hosts after the first, each with an optional port.
    pub fn more_hosts(&self) -> &[String] {
        &self.more_hosts
    }

    fn read(text: &str) -> Result<Self, SecretUrlError> {
        check(text)?;
        let authority = text.find("://").map_or(0, |at| at + 3);
        let (scheme, rest) = text.split_at(authority);
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let mut hosts = hosts.split(',');
        let url = [scheme, user, hosts.next().unwrap_or_default(), path].concat().parse()?;
        Ok(Self { url, more_hosts: hosts.map(str::to_owned).collect() })
    }
}

/// Rejects an ambiguous URL, for which two parsers could disagree where the password ends: the part
/// that one of them takes for the host is logged and sent to name servers.
fn check(text: &str) -> Result<(), SecretUrlError> {
    if text.starts_with("sqlite:") {
        // A path without a password.
        return Ok(());
    }
    let (_, rest) = text.split_once("://").ok_or(SecretUrlError::NoScheme)?;
    let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let is_reserved = |c: char| matches!(c, '@' | '\\' | '[' | ']') || c.is_whitespace() || c.is_control();
    // The path of a socket may contain one: no host precedes it.
    let is_host_behind = !authority.is_empty() && behind.contains('@');
    match rest.contains('#') || is_host_behind || user.contains(is_reserved) || !is_encoded(user) {
        true => Err(SecretUrlError::Ambiguous),
        false => Ok(()),
    }
}

/// Whether every percent sign begins a valid escape.
fn is_encoded(text: &str) -> bool {
    let mut escapes = text.split('%').skip(1);
    escapes.all(|rest| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

/// Why a URL was rejected. No message contains a part of the URL.
#[derive(Debug, thiserror::Error)]
pub enum SecretUrlError {
    #[error("invalid URL: {0}")]
    Malformed(#[from] url::ParseError),
    #[error("invalid URL: it does not begin with a scheme and \"://\"")]
    NoScheme,
    #[error(
        "ambiguous URL: the end of the password is unclear; percent-encode all characters of user and password except letters \
         and digits (@ is %40, # is %23, / is %2F, ? is %3F, % is %25), and any @ after the host"
    )]
    Ambiguous,
    #[error("cannot read the file {path:?}: {reason}")]
    Unreadable { path: String, reason: io::Error },
}

/// Parses a URL. `file:PATH` reads the URL from the first line of a file, as container platforms
/// provide secrets.
impl FromStr for SecretUrl {
    type Err = SecretUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(path) = text.strip_prefix("file:") else { return Self::read(text) };
        let content =
            fs::read_to_string(path).map_err(|reason| SecretUrlError::Unreadable { path: path.to_owned(), reason })?;
        Self::read(content.lines().next().unwrap_or_default().trim())
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.url.clone();
        if shown.password().is_some() {
            // This fails only for URLs that cannot have a password.
            let _ = shown.set_password(Some("***"));
        }
        // An unencoded slash in a password ends the host for URL parsers, so the path may contain
        // the rest of the password.
        if shown.path().contains('@') {
            shown.set_path("***");
        }
        // The query may contain a password, too (`?password=`, `?pass=`).
        if shown.query().is_some() {
            shown.set_query(Some("***"));
        }
        if self.more_hosts.is_empty() {
            return f.write_str(shown.as_str());
        }
        // Insert the further hosts after the first, before the path.
        let before = shown[..Position::BeforePath].len();
        let (before, behind) = shown.as_str().split_at(before);
        write!(f, "{before},{}{behind}", self.more_hosts.join(","))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_masked_in_output() {
        let url: SecretUrl = "redis://ana:s3cret@db/0".parse().unwrap();
        assert_eq!(url.to_string(), "redis://ana:***@db/0");
        let url: SecretUrl = "redis+unix:///run/redis.sock?db=1&pass=s3cret".parse().unwrap();
        assert!(!format!("{url:?} {url}").contains("s3cret"));
        let url: SecretUrl = "redis+sentinel://:s3cret@a:1,b:2,c/main?sentinel_password=s3cret".parse().unwrap();
        assert_eq!(url.to_string(), "redis+sentinel://:***@a:1,b:2,c/main?***");
        assert_eq!((url.reveal().contains("@a:1/"), url.more_hosts()), (true, &["b:2".to_owned(), "c".to_owned()][..]));
    }

    #[test]
    fn url_with_ambiguous_password_is_rejected() {
        for user in
            ["u:p@ss#w0rd", "u:p@ss", "u:p/ss", "u:p?ss", "u:p#ss", "u:p%ss", "u:p%4", "u:p ss", "u:p\\ss", "u:[x"]
        {
            for scheme in ["postgres", "redis", "rediss", "redis+sentinel", "redis+cluster"] {
                let error = format!("{scheme}://{user}@host/0").parse::<SecretUrl>().unwrap_err();
                assert!(matches!(error, SecretUrlError::Ambiguous), "{scheme} {user}: {error:?}");
            }
        }
        for text in ["redis://host?pass=p#ss", "postgres://host/db?password=p@ss", "redis+unix:///run/redis?pass=p#ss"]
        {
            assert!(matches!(text.parse::<SecretUrl>(), Err(SecretUrlError::Ambiguous)), "{text}");
        }
        for text in ["s3cret", "u:p@host/db", "postgres:u:p@host/db"] {
            assert!(matches!(text.parse::<SecretUrl>(), Err(SecretUrlError::NoScheme)), "{text}");
        }
        for text in [
            "postgres://u:p%40ss%23w0rd@host/db",
            "redis://:a:b!$&'()*+,;=~-._@host",
            "redis+unix:///run/a@b?pass=x@y",
            "sqlite:a@b#c",
        ] {
            assert!(text.parse::<SecretUrl>().is_ok(), "{text}");
        }
    }
}
