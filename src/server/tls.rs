use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    InconsistentKeys, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};
use tokio_rustls::{Accept, TlsAcceptor};
use tokio_util::sync::CancellationToken;

use crate::config::TlsSettings;

/// Interval between checks of the certificate files.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// Accepts TLS connections with a certificate that can be replaced at run time.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
    files: Files,
    /// The content of the files when they were last read, valid or not.
    seen: Arc<Pem>,
}

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: io::Error },
    /// A file contains no item of the expected kind.
    #[error("{} contains no valid {wanted} in PEM format: {reason}", path.display())]
    NotPem { path: PathBuf, wanted: &'static str, reason: pem::Error },
    /// Both files are valid, but the key belongs to another certificate.
    #[error("the key in {} does not match the certificate in {}", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    /// rustls rejects the files, for example because of an unsupported kind of key.
    #[error("cannot use the certificate in {} with the key in {}: {reason}", cert.display(), key.display())]
    Unusable { cert: PathBuf, key: PathBuf, reason: rustls::Error },
}

impl Tls {
    /// Loads the certificate chain and the key; `None` if the settings name neither.
    ///
    /// # Errors
    /// If a file is missing or invalid, or the key does not match the certificate.
    pub fn load(settings: &TlsSettings) -> Result<Option<Self>, TlsError> {
        let (Some(cert), Some(key)) = (&settings.cert, &settings.key) else {
            return Ok(None);
        };
        let files = Files { cert: cert.clone(), key: key.clone() };
        let provider = Arc::new(ring::default_provider());
        let seen = files.read()?;
        let certified = files.certified(&seen, &provider)?;

        let current = Arc::new(Current { certified: ArcSwap::from_pointee(certified), provider: provider.clone() });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|reason| files.unusable(reason))?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // All cipher suites of rustls are secure; security scanners expect that the server chooses
        // the order.
        config.ignore_client_order = true;
        Ok(Some(Self { acceptor: Arc::new(config).into(), current, files, seen: Arc::new(seen) }))
    }

    /// Starts the handshake with a client.
    pub fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Accept<S> {
        self.acceptor.accept(stream)
    }

    /// Checks the files every [`RELOAD_INTERVAL`] and uses a changed pair for new connections. An
    /// invalid pair, such as a half-written file, is logged once and the current one stays in use.
    pub async fn reload_until(self, shutdown: CancellationToken) {
        let mut seen = self.seen.clone();
        let mut readable = true;
        while shutdown.run_until_cancelled(time::sleep(RELOAD_INTERVAL)).await.is_some() {
            let files = self.files.clone();
            // Reading blocks: a slow file system must not stall a worker.
            let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else { return };
            match read {
                Ok(pem) if pem == *seen => readable = true,
                Ok(pem) => {
                    self.replace(&pem);
                    seen = Arc::new(pem);
                    readable = true;
                }
                Err(error) => {
                    if readable {
                        tracing::error!(%error, "cannot read the certificate files; the current certificate stays in use");
                    }
                    readable = false;
                }
            }
        }
    }

    fn replace(&self, pem: &Pem) {
        match self.files.certified(pem, &self.current.provider) {
            Ok(certified) => {
                self.current.certified.store(Arc::new(certified));
                tracing::info!(cert = %self.files.cert.display(), "loaded a new certificate");
            }
            Err(error) => tracing::error!(%error, "the new certificate is invalid; the current one stays in use"),
        }
    }
}

/// The certificate for new handshakes.
#[derive(Debug)]
struct Current {
    certified: ArcSwap<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified.load_full())
    }
}

#[derive(Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

/// Content of the files, which is compared to detect a change: Kubernetes swaps symbolic links, and
/// a copy may keep the old modification time.
#[derive(PartialEq, Eq)]
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(&self) -> Result<Pem, TlsError> {
        let read = |path: &Path| fs::read(path).map_err(|reason| TlsError::Unreadable { path: path.into(), reason });
        Ok(Pem { cert: read(&self.cert)?, key: read(&self.key)? })
    }

    fn certified(&self, pem: &Pem, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let not_pem = |path: &Path, wanted, reason| TlsError::NotPem { path: path.into(), wanted, reason };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem.cert)
            .collect::<Result<_, _>>()
            .and_then(|chain: Vec<_>| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
            .map_err(|reason| not_pem(&self.cert, "certificate", reason))?;
        let key =
            PrivateKeyDer::from_pem_slice(&pem.key).map_err(|reason| not_pem(&self.key, "private key", reason))?;
        CertifiedKey::from_der(chain, key, provider).map_err(|reason| self.unusable(reason))
    }

    fn unusable(&self, reason: rustls::Error) -> TlsError {
        let (cert, key) = (self.cert.clone(), self.key.clone());
        match reason {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Mismatch { cert, key },
            reason => TlsError::Unusable { cert, key, reason },
        }
    }
}
