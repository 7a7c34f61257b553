use std::{error::Error as _, fmt, io, iter, time::Duration};

use serde::Deserialize;

use super::{Refusal, proxy::Proxy};

/// Why a request got neither a yes nor a no.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request or a setting is invalid; no server was asked.
    #[error("{0}")]
    Malformed(String),
    /// The server, or the proxy before it, did not answer in time.
    #[error("{peer} cannot be reached: {reason}")]
    Unreachable { peer: Peer, reason: String },
    /// The name of the server, or of the proxy before it, has no address.
    #[error("the host {host} is unknown: {reason}")]
    UnknownHost { host: String, reason: String },
    /// The server's certificate is not trusted, or the server does not speak TLS.
    #[error("{peer} has no trusted TLS: {reason}")]
    Insecure { peer: Peer, reason: String },
    /// The server's problem document.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The answer is not one of Lockable's.
    #[error("{peer} does not answer as Lockable does: {what}")]
    Stranger { peer: Peer, what: String },
    /// The lock was not granted in time.
    #[error("the lock was not granted in time")]
    NotAcquired(Box<Refusal>),
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The server's address.
    pub origin: String,
    /// The proxy that requests go through.
    pub proxy: Option<Proxy>,
}

/// A problem document, as the server sent it.
#[derive(Clone, Debug, Default, Deserialize, thiserror::Error)]
#[error("{title}: {detail} (request {request_id})")]
#[serde(default)]
pub struct Problem {
    pub status: u16,
    /// The address that explains this kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub detail: String,
    pub request_id: String,
    /// How long to wait before the next request, from `Retry-After`.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl Error {
    /// Whether the same request may succeed later: the server was away, or too busy.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::UnknownHost { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 408 | 429 | 500..),
            Self::Insecure { .. } | Self::Stranger { .. } | Self::Malformed(_) | Self::NotAcquired(_) => false,
        }
    }

    /// How long to wait before the next request, if the server said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            _ => None,
        }
    }
}

impl Problem {
    /// The last part of the address that explains it, such as `lease-out-of-range`.
    pub fn slug(&self) -> &str {
        self.kind.rsplit('/').next().unwrap_or_default()
    }
}

impl Peer {
    /// Sorts what kept a request from being answered.
    pub(super) fn failure(&self, error: &reqwest::Error) -> Error {
        // The innermost reason is the most precise one, and does not repeat the address.
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
        if let Some(tls) = sources().find_map(tls_error) {
            return Error::Insecure { peer, reason: in_words(tls) };
        }
        if sources().filter_map(|source| source.downcast_ref::<hyper::Error>()).any(hyper::Error::is_parse) {
            return Error::Stranger { peer, what: format!("its answer is not HTTP: {reason}") };
        }
        Error::Unreachable { peer, reason }
    }

    /// The host that connections are made to.
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

/// The TLS error in a link of a chain: I/O errors do not name the error that they wrap as
/// their source, and wrap one another.
fn tls_error<'a>(link: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(error) = link.downcast_ref() {
        return Some(error);
    }
    tls_error(link.downcast_ref::<io::Error>()?.get_ref()?)
}

fn in_words(error: &rustls::Error) -> String {
    use rustls::CertificateError;
    match error {
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            "it does not speak TLS on this port".to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is of an unknown issuer (UnknownIssuer)".to_owned()
        }
        error => error.to_string(),
    }
}
