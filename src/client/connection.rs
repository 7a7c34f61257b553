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

/// How long a server may take to be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to answer, beside what the request waits for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

const UNKNOWN: &str = "its answer is not one that we know";

/// A client with a token, of one server or of several behind one address. Clones
/// share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    peer: Arc<Peer>,
    token: Arc<str>,
}

/// Makes a [`Client`].
pub struct Builder {
    url: String,
    token: String,
    ca: Option<Vec<u8>>,
}

impl Client {
    /// A client of the server at this address, such as `https://locks.example.com`.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder { url: url.into(), token: String::new(), ca: None }
    }

    /// The address, without what follows the host.
    pub fn origin(&self) -> &str {
        &self.peer.origin
    }

    /// The proxy that requests go through.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.peer.proxy.as_ref()
    }

    /// Asks once for a lock. With `wait` the server answers when it is granted, or
    /// when that time is over; its own limit is 55 seconds unless it says otherwise.
    ///
    /// # Errors
    /// When there is neither a yes nor a no. The lock may have been granted when no
    /// answer came; asking again as the same owner finds out.
    pub async fn acquire(&self, request: &LockRequest, wait: Duration) -> Result<AcquireOutcome, Error> {
        let mut parameters = request.parameters(&["owner", "namespace", "lease", "note"]);
        if !wait.is_zero() {
            parameters.push(("wait", milliseconds(wait)));
        }
        let sent = BootTime::now();
        let answer = self.ask_about_lock(&request.path("acquire"), &parameters, wait + ANSWER_TIMEOUT).await?;
        match answer.grant(sent) {
            Some(grant) => Ok(AcquireOutcome::Granted(grant)),
            None => {
                answer.refusal().map(AcquireOutcome::Refused).ok_or_else(|| self.stranger("an acquire is not answered"))
            }
        }
    }

    /// Renews the lease of the grant with this fencing token.
    ///
    /// # Errors
    /// When there is neither a yes nor a no, also after `timeout`.
    pub async fn heartbeat(
        &self,
        request: &LockRequest,
        fencing_token: Option<u64>,
        timeout: Duration,
    ) -> Result<Result<Grant, NotHeld>, Error> {
        let mut parameters = request.parameters(&["owner", "namespace", "lease"]);
        parameters.extend(fencing_token.map(|token| ("fencing_token", token.to_string())));
        let sent = BootTime::now();
        let answer = self.ask_about_lock(&request.path("heartbeat"), &parameters, timeout).await?;
        match (answer.grant(sent), answer.done()) {
            (Some(grant), _) => Ok(Ok(grant)),
            (None, Some(Err(not_held))) => Ok(Err(not_held)),
            _ => Err(self.stranger("a heartbeat is not answered")),
        }
    }

    /// Gives the lock back.
    ///
    /// # Errors
    /// When there is neither a yes nor a no.
    pub async fn release(
        &self,
        request: &LockRequest,
        fencing_token: Option<u64>,
    ) -> Result<Result<(), NotHeld>, Error> {
        let mut parameters = request.parameters(&["owner", "namespace"]);
        parameters.extend(fencing_token.map(|token| ("fencing_token", token.to_string())));
        let answer = self.ask_about_lock(&request.path("release"), &parameters, ANSWER_TIMEOUT).await?;
        answer.done().ok_or_else(|| self.stranger("a release is not answered"))
    }

    /// Takes the lock from whoever of the account holds it. For tokens with the
    /// scope `manage`.
    ///
    /// # Errors
    /// When there is neither a yes nor a no.
    pub async fn break_lock(&self, request: &LockRequest) -> Result<Result<(), NotHeld>, Error> {
        let parameters = request.parameters(&["namespace"]);
        let answer = self.ask(Method::DELETE, &request.path("locks"), &parameters, ANSWER_TIMEOUT).await?;
        let answer = LockAnswer::read(answer).ok_or_else(|| self.stranger(UNKNOWN))?;
        answer.done().ok_or_else(|| self.stranger("breaking is not answered"))
    }

    /// Who holds a lock, how many wait for it, and where among them the owner of
    /// this request stands.
    ///
    /// # Errors
    /// When the server does not say.
    pub async fn status(&self, request: &LockRequest) -> Result<Status, Error> {
        let parameters = request.parameters(&["namespace", "owner"]);
        let answer = self.ask(Method::GET, &request.path("locks"), &parameters, ANSWER_TIMEOUT).await?;
        serde_json::from_value(answer).map_err(|_| self.stranger(UNKNOWN))
    }

    /// One page of the locks that the account holds in a namespace, those whose
    /// names begin with `prefix`; after `cursor`, which the page before had.
    ///
    /// # Errors
    /// When the server does not say.
    pub async fn list(&self, namespace: Option<&str>, prefix: &str, cursor: Option<&str>) -> Result<Page, Error> {
        let given = [("namespace", namespace), ("prefix", Some(prefix)), ("cursor", cursor)];
        let parameters: Vec<_> = given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?.to_owned())))
            .collect();
        let answer = self.ask(Method::GET, "/v1/locks", &parameters, ANSWER_TIMEOUT).await?;
        serde_json::from_value(answer).map_err(|_| self.stranger(UNKNOWN))
    }

    /// What the token may do, and how much of it.
    ///
    /// # Errors
    /// When the server does not say.
    pub async fn account(&self) -> Result<Account, Error> {
        let answer = self.ask(Method::GET, "/v1/account", &[], ANSWER_TIMEOUT).await?;
        let account = Account::deserialize(&answer).map_err(|_| self.stranger(UNKNOWN))?;
        Ok(Account { answer, ..account })
    }

    async fn ask_about_lock(
        &self,
        path: &str,
        parameters: &[(&str, String)],
        timeout: Duration,
    ) -> Result<LockAnswer, Error> {
        let answer = self.ask(Method::POST, path, parameters, timeout).await?;
        LockAnswer::read(answer).ok_or_else(|| self.stranger(UNKNOWN))
    }

    async fn ask(
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
        let response = request.send().await.map_err(|error| self.peer.failure(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.map_err(|error| self.peer.failure(&error))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|_| self.stranger("what it answers is no JSON"));
        }
        let Ok(mut problem) = serde_json::from_slice::<Problem>(&body) else {
            // A proxy that cannot reach its servers speaks for itself.
            return Err(match status.is_server_error() {
                true => Error::Unreachable { peer: self.peer(), reason: format!("answered {status}") },
                false => self.stranger(&format!("answered {status}")),
            });
        };
        let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        problem.retry_after = seconds.map(Duration::from_secs);
        problem.status = status.as_u16();
        Err(Error::Problem(Box::new(problem)))
    }

    pub(super) fn silent(&self) -> Error {
        Error::Unreachable { peer: self.peer(), reason: "no answer in time".to_owned() }
    }

    fn stranger(&self, what: &str) -> Error {
        Error::Stranger { peer: self.peer(), what: what.to_owned() }
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

    /// Trusts the certificates in this PEM, too.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Makes the client. Nothing is asked yet.
    ///
    /// # Errors
    /// When the address or the certificates cannot be used.
    pub fn build(self) -> Result<Client, Error> {
        let url = parse_address(&self.url)?;
        let origin = format!("{}{}", url.origin().ascii_serialization(), url.path().trim_end_matches('/'));
        let proxy = Proxy::of(&url)?;
        let unusable = |error: reqwest::Error| Error::Malformed(format!("no client can be made: {error}"));
        let uses_tls = url.scheme() == "https" || proxy.as_ref().is_some_and(|proxy| proxy.value.starts_with("https:"));
        // The environment is read once, by `Proxy`, so that errors name the proxy that was used.
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
/// When it is not an `http` or `https` URL, or has credentials in it.
pub fn parse_address(address: &str) -> Result<Url, Error> {
    // A host with a port reads as a scheme: `locks.example.com:8080`.
    let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        return Err(Error::Malformed("an address begins with https:// or http://".to_owned()));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Malformed("the address has credentials in it; set the token apart from it".to_owned()));
    }
    Ok(url)
}

/// Trusts whom the system trusts, if it does anybody, and who is in `ca`.
fn tls(is_used: bool, ca: Option<&[u8]>) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    // To read and parse them takes longer than all else before the first request.
    if is_used {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(pem) = ca {
        let malformed = |reason: String| Error::Malformed(format!("the CA file cannot be used: {reason}"));
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| malformed(error.to_string()))?;
            roots.add(certificate).map_err(|error| malformed(error.to_string()))?;
            count += 1;
        }
        if count == 0 {
            return Err(malformed("it has no certificate".to_owned()));
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Malformed(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
