//! Opens streams to Redis with the same settings as redis-rs.

use std::{io, sync::Arc};

use futures_util::future::select_ok;
use redis::{ConnectionAddr, ConnectionInfo, io::tcp::TcpSettings};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

/// TCP comes first, since it is the usual case and needs no allocation.
pub(super) type Stream = Either<TcpStream, Either<Box<TlsStream<TcpStream>>, UnixStream>>;

/// Opens a stream to the server. Nothing has been sent on it.
pub(super) async fn open_stream(info: &ConnectionInfo) -> io::Result<Stream> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => Ok(Either::Left(open_tcp(host, *port, info.tcp_settings()).await?)),
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None } => {
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let stream = open_tcp(host, *port, info.tcp_settings()).await?;
            let stream = TlsConnector::from(Arc::new(tls_config()?)).connect(name, stream).await?;
            Ok(Either::Right(Either::Left(Box::new(stream))))
        }
        ConnectionAddr::Unix(path) => Ok(Either::Right(Either::Right(UnixStream::connect(path).await?))),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "this kind of connection is not supported")),
    }
}

/// Connects to all addresses of a host, and returns the first connection.
async fn open_tcp(host: &str, port: u16, settings: &TcpSettings) -> io::Result<TcpStream> {
    let connecting: Vec<_> = lookup_host((host, port)).await?.map(|at| Box::pin(TcpStream::connect(at))).collect();
    if connecting.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    }
    let (stream, _) = select_ok(connecting).await?;
    stream.set_nodelay(settings.nodelay())?;
    let socket = SockRef::from(&stream);
    if let Some(keepalive) = settings.keepalive() {
        socket.set_tcp_keepalive(keepalive)?;
    }
    socket.set_tcp_user_timeout(settings.user_timeout())?;
    Ok(stream)
}

/// Trusts the root certificates that the system trusts now.
fn tls_config() -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let mut found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.pop() {
        return Err(io::Error::other(error));
    }
    for certificate in found.certs {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
