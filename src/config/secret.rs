use std::{fmt, fs, io, str::FromStr};

use url::Url;

/// An address that may carry a password, and does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Url);

impl SecretUrl {
    /// The address with its password. For connecting, not for showing.
    pub fn reveal(&self) -> &str {
        self.0.as_str()
    }

    pub fn scheme(&self) -> &str {
        self.0.scheme()
    }
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum SecretUrlError {
    #[error("it is no address: {0}")]
    Malformed(#[from] url::ParseError),
    #[error("the file {path:?} cannot be read: {reason}")]
    Unreadable { path: String, reason: io::Error },
}

/// Reads an address, or with `file:PATH` the file that has it on its first line,
/// as containers are given their secrets.
impl FromStr for SecretUrl {
    type Err = SecretUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(path) = text.strip_prefix("file:") else { return Ok(Self(text.parse()?)) };
        let content =
            fs::read_to_string(path).map_err(|reason| SecretUrlError::Unreadable { path: path.to_owned(), reason })?;
        Ok(Self(content.lines().next().unwrap_or_default().trim().parse()?))
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        if shown.password().is_some() {
            // Fails only for addresses that cannot have a password at all.
            let _ = shown.set_password(Some("***"));
        }
        // A password may also stand in the query (`?password=`, `?pass=`).
        if shown.query().is_some() {
            shown.set_query(Some("***"));
        }
        f.write_str(shown.as_str())
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
    fn a_password_is_not_printed() {
        let url: SecretUrl = "redis://ana:s3cret@db/0".parse().unwrap();
        assert_eq!(url.to_string(), "redis://ana:***@db/0");
        let url: SecretUrl = "redis+unix:///run/redis.sock?db=1&pass=s3cret".parse().unwrap();
        assert!(!format!("{url:?} {url}").contains("s3cret"));
    }
}
