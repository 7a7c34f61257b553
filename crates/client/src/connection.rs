use std::{fmt, sync::Arc, time::Duration};

use reqwest::{Method, header};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{
    Account, AcquireOutcome, BootTime, Error, Grant, LockRequest, NotHeld, Page, Peer, Problem, Proxy, Status,
    answer::LockAnswer, request::milliseconds,
};

/// Limit for connecting to the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for an answer, in addition to the request's own wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

const UNKNOWN_ANSWER: &str = "the answer has an unknown format";

/// A client with a token, for one server or several servers behind one address. Clones share their
/// connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    peer: Arc<Peer>,
    token: Arc<str>,
}

/// Builds a [`Client`].
pub struct Builder {
    url: String,
    token: String,
    ca: Option<Vec<u8>>,
}

impl Client {
    /// Begins a client for the server at this address, such as `https://locks.example.com`.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder { url: url.into(), token: String::new(), ca: None }
    }

    /// The server's address, without a trailing slash.
    pub fn origin(&self) -> &str {
        &self.peer.origin
    }

    /// The proxy that requests go through.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.peer.proxy.as_ref()
    }

    /// Sends one acquire. With `wait`, the server answers when the lock is granted or the time is
    /// over; the server's default limit for it is 55 seconds.
    ///
    /// # Errors
    /// When the server returns no result. Without an answer the lock may have been granted; a retry
    /// with the same owner returns the grant.
    pub async fn acquire(&self, request: &LockRequest, wait: Duration) -> Result<AcquireOutcome, Error> {
        let mut parameters = request.parameters(&["owner", "namespace", "lease", "note"]);
        if !wait.is_zero() {
            parameters.push(("wait", milliseconds(wait)));
        }
        let sent = BootTime::now();
        let answer = self.send_lock_request(&request.path("acquire"), &parameters, wait + ANSWER_TIMEOUT).await?;
        match answer.grant(sent) {
            Some(grant) => Ok(AcquireOutcome::Granted(grant)),
            None => answer
                .refusal()
                .map(AcquireOutcome::Refused)
                .ok_or_else(|| self.unexpected_answer("the answer has no result of an acquire")),
        }
    }

    /// Renews the lease of the grant with this fencing token.
    ///
    /// # Errors
    /// When the server returns no result within `timeout`.
    pub async fn heartbeat(
        &self,
        request: &LockRequest,
        fencing_token: Option<u64>,
        timeout: Duration,
    ) -> Result<Result<Grant, NotHeld>, Error> {
        let mut parameters = request.parameters(&["owner", "namespace", "lease"]);
        parameters.extend(fencing_token.map(|token| ("fencing_token", token.to_string())));
        let sent = BootTime::now();
        let answer = self.send_lock_request(&request.path("heartbeat"), &parameters, timeout).await?;
        match (answer.grant(sent), answer.outcome()) {
            (Some(grant), _) => Ok(Ok(grant)),
            (None, Some(Err(not_held))) => Ok(Err(not_held)),
            _ => Err(self.unexpected_answer("the answer has no result of a heartbeat")),
        }
    }

    /// Releases the lock, or leaves its queue.
    ///
    /// # Errors
    /// When the server returns no result.
    pub async fn release(
        &self,
        request: &LockRequest,
        fencing_token: Option<u64>,
    ) -> Result<Result<(), NotHeld>, Error> {
        let mut parameters = request.parameters(&["owner", "namespace"]);
        parameters.extend(fencing_token.map(|token| ("fencing_token", token.to_string())));
        let answer = self.send_lock_request(&request.path("release"), &parameters, ANSWER_TIMEOUT).await?;
        answer.outcome().ok_or_else(|| self.unexpected_answer("the answer has no result of a release"))
    }

    /// Breaks the lock: ends the grant of any holder of the account. Requires the scope `manage`.
    ///
    /// # Errors
    /// When the server returns no result.
    pub async fn break_lock(&self, request: &LockRequest) -> Result<Result<(), NotHeld>, Error> {
        let parameters = request.parameters(&["namespace"]);
        let answer = self.send(Method::DELETE, &request.path("locks"), &parameters, ANSWER_TIMEOUT).await?;
        let answer = LockAnswer::read(answer).ok_or_else(|| self.unexpected_answer(UNKNOWN_ANSWER))?;
        answer.outcome().ok_or_else(|| self.unexpected_answer("the answer has no result of a break"))
    }

    /// Returns a lock's holder, the length of its queue, and the position of this request's owner.
    ///
    /// # Errors
    /// When the server returns no result.
    pub async fn status(&self, request: &LockRequest) -> Result<Status, Error> {
        let parameters = request.parameters(&["namespace", "owner"]);
        let answer = self.send(Method::GET, &request.path("locks"), &parameters, ANSWER_TIMEOUT).await?;
        serde_json::from_value(answer).map_err(|_| self.unexpected_answer(UNKNOWN_ANSWER))
    }

    /// Returns a page of the locks that the account holds in a namespace and whose names begin with
    /// `prefix`. `cursor` is from the previous page.
    ///
    /// # Errors
    /// When the server returns no result.
    pub async fn list(&self, namespace: Option<&str>, prefix: &str, cursor: Option<&str>) -> Result<Page, Error> {
        let given = [("namespace", namespace), ("prefix", Some(prefix)), ("cursor", cursor)];
        let parameters: Vec<_> = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?.to_owned())))
            .collect();
        let answer = self.send(Method::GET, "/v1/locks", &parameters, ANSWER_TIMEOUT).await?;
        serde_json::from_value(answer).map_err(|_| self.unexpected_answer(UNKNOWN_ANSWER))
    }

    /// Returns the token's permissions, and the account's limits and usage.
    ///
    /// # Errors
    /// When the server returns no result.
    pub async fn account(&self) -> Result<Account, Error> {
        let answer = self.send(Method::GET, "/v1/account", &[], ANSWER_TIMEOUT).await?;
        let account = Account::deserialize(&answer).map_err(|_| self.unexpected_answer(UNKNOWN_ANSWER))?;
        Ok(Account { answer, ..account })
    }

    async fn send_lock_request(
        &self,
        path: &str,
        parameters: &[(&str, String)],
        timeout: Duration,
    ) -> Result<LockAnswer, Error> {
        let answer = self.send(Method::POST, path, parameters, timeout).await?;
        LockAnswer::read(answer).ok_or_else(|| self.unexpected_answer(UNKNOWN_ANSWER))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        parameters: &[(&str, String)],
        timeout: Duration,
    ) -> Result<Value, Error> {
        let mut url = format!("{}{path}", self.peer.origin);
        if !parameters.is_empty() {
            let pairs = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
            url = format!("{url}?{pairs}");
        }
        let request = self.http.request(method, url).basic_auth(&self.token, Some("")).timeout(timeout);
        let response = request.send().await.map_err(|error| self.peer.classify(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.map_err(|error| self.peer.classify(&error))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|_| self.unexpected_answer("the answer is not JSON"));
        }
        let Ok(mut problem) = serde_json::from_slice::<Problem>(&body) else {
            // A proxy that cannot reach its servers answers with a document of its own.
            return Err(match status.is_server_error() {
                true => Error::Unreachable { peer: self.peer(), reason: format!("answered {status}") },
                false => self.unexpected_answer(&format!("answered {status}")),
            });
        };
        let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        problem.retry_after = seconds.map(Duration::from_secs);
        problem.status = status.as_u16();
        Err(Error::Problem(Box::new(problem)))
    }

    pub(super) fn timed_out(&self) -> Error {
        Error::Unreachable { peer: self.peer(), reason: "no answer in time".to_owned() }
    }

    fn unexpected_answer(&self, reason: &str) -> Error {
        Error::UnexpectedAnswer { peer: self.peer(), reason: reason.to_owned() }
    }

    fn peer(&self) -> Peer {
        Peer::clone(&self.peer)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.peer.origin)
    }
}

impl Builder {
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = token.into();
        self
    }

    /// Trusts these CA certificates (PEM) in addition to the system's.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Builds the client, without sending a request.
    ///
    /// # Errors
    /// When the address, the proxy or the certificates are invalid.
    pub fn build(self) -> Result<Client, Error> {
        let url = parse_address(&self.url)?;
        let origin = format!("{}{}", url.origin().ascii_serialization(), url.path().trim_end_matches('/'));
        let proxy = Proxy::of(&url)?;
        let unusable = |error: reqwest::Error| Error::Malformed(format!("cannot create the HTTP client: {error}"));
        let uses_tls = url.scheme() == "https" || proxy.as_ref().is_some_and(|proxy| proxy.value.starts_with("https:"));
        // Only `Proxy` reads the environment, so that errors name the proxy that was used.
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .tls_backend_preconfigured(tls(uses_tls, self.ca.as_deref())?)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("lockable/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = &proxy {
            http = http.proxy(reqwest::Proxy::all(&proxy.value).map_err(unusable)?);
        }
        let http = http.build().map_err(unusable)?;
        Ok(Client { http, peer: Arc::new(Peer { origin, proxy }), token: self.token.into() })
    }
}

/// Checks the address of a server.
///
/// # Errors
/// When it is not an `http` or `https` URL, or contains credentials.
pub fn parse_address(address: &str) -> Result<Url, Error> {
    // A host with a port parses as a scheme: `locks.example.com:8080`.
    let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        return Err(Error::Malformed("an address begins with https:// or http://".to_owned()));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Malformed(
            "the address contains credentials; remove them and set the token by LOCKABLE_AUTH_TOKEN".to_owned(),
        ));
    }
    Ok(url)
}

/// Builds the TLS configuration: trusts the system's CAs and those in `ca`.
fn tls(is_used: bool, ca: Option<&[u8]>) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    // Loading the system's certificates is the slowest step before the first request.
    if is_used {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(pem) = ca {
        let malformed = |reason: String| Error::Malformed(format!("cannot use the CA file: {reason}"));
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| malformed(error.to_string()))?;
            roots.add(certificate).map_err(|error| malformed(error.to_string()))?;
            count += 1;
        }
        if count == 0 {
            return Err(malformed("it contains no certificate".to_owned()));
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Malformed(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
