use std::{error::Error as _, fmt, io, iter, time::Duration};

use serde::Deserialize;

use super::{Refusal, proxy::Proxy};

/// The reason for which a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request or a setting is invalid; nothing was sent.
    #[error("{0}")]
    Malformed(String),
    /// The server or the proxy did not answer in time, or accepts no connection.
    #[error("cannot reach {peer}: {reason}")]
    Unreachable { peer: Peer, reason: String },
    /// The host name of the server or of the proxy has no address.
    #[error("the host {host} is unknown: {reason}")]
    UnknownHost { host: String, reason: String },
    /// The server's certificate is not trusted, or the server does not use TLS.
    #[error("no trusted TLS connection to {peer}: {reason}")]
    Insecure { peer: Peer, reason: String },
    /// The server's problem document.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The answer is not from a Lockable server.
    #[error("{peer} does not answer like a Lockable server: {reason}")]
    UnexpectedAnswer { peer: Peer, reason: String },
    /// The lock was not granted in time.
    #[error("the lock was not granted in time")]
    NotAcquired(Box<Refusal>),
}

/// The server, and the proxy in front of it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The server's address.
    pub origin: String,
    /// The proxy that requests go through.
    pub proxy: Option<Proxy>,
}

/// A problem document from the server (RFC 9457).
#[derive(Clone, Debug, Default, Deserialize, thiserror::Error)]
#[error("{title}: {detail} (request {request_id})")]
#[serde(default)]
pub struct Problem {
    pub status: u16,
    /// The URL of the problem's documentation.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub detail: String,
    pub request_id: String,
    /// The time until a retry, from `Retry-After`.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl Error {
    /// Whether the same request may succeed later: the server is unreachable or overloaded.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::UnknownHost { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 408 | 429 | 500..),
            Self::Insecure { .. } | Self::UnexpectedAnswer { .. } | Self::Malformed(_) | Self::NotAcquired(_) => false,
        }
    }

    /// The time until a retry, if the server set it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            _ => None,
        }
    }
}

impl Problem {
    /// The last segment of the documentation URL, such as `lease-out-of-range`.
    pub fn slug(&self) -> &str {
        self.kind.rsplit('/').next().unwrap_or_default()
    }
}

impl Peer {
    /// Converts the error of a request without an answer.
    pub(super) fn classify(&self, error: &reqwest::Error) -> Error {
        // The innermost error is the most precise, and does not repeat the address.
        let sources = || iter::successors(error.source(), |&source| source.source());
        let reason = match (error.is_timeout(), sources().last()) {
            (true, _) => "no answer in time".to_owned(),
            (false, Some(source)) => source.to_string(),
            (false, None) => "the request failed".to_owned(),
        };
        let peer = self.clone();
        if error.is_dns() {
            let reason = reason.trim_start_matches("failed to lookup address information: ").to_owned();
            return Error::UnknownHost { host: self.host(), reason };
        }
        if let Some(tls) = sources().find_map(find_tls_error) {
            return Error::Insecure { peer, reason: describe_tls_error(tls) };
        }
        if sources().filter_map(|source| source.downcast_ref::<hyper::Error>()).any(hyper::Error::is_parse) {
            return Error::UnexpectedAnswer { peer, reason: format!("the answer is not HTTP: {reason}") };
        }
        Error::Unreachable { peer, reason }
    }

    /// The host of the server, or of the proxy if there is one.
    fn host(&self) -> String {
        let address = self.proxy.as_ref().map_or(&self.origin, |proxy| &proxy.address);
        let url = url::Url::parse(address).ok();
        let host = url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_else(|| address.clone());
        match &self.proxy {
            Some(proxy) => format!("{host} of the proxy in {}", proxy.variable),
            None => host,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proxy {
            Some(Proxy { address, variable, .. }) => {
                write!(f, "{} (through the proxy {address} from {variable})", self.origin)
            }
            None => f.write_str(&self.origin),
        }
    }
}

/// Finds the TLS error in an error of a chain: I/O errors may be nested, and `source` skips the
/// error that they wrap.
fn find_tls_error<'a>(link: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(error) = link.downcast_ref() {
        return Some(error);
    }
    find_tls_error(link.downcast_ref::<io::Error>()?.get_ref()?)
}

fn describe_tls_error(error: &rustls::Error) -> String {
    use rustls::CertificateError;
    match error {
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            "it does not use TLS on this port".to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is from an unknown issuer (UnknownIssuer)".to_owned()
        }
        error => error.to_string(),
    }
}
