use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use metrics::{Gauge, counter, gauge};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Tls,
    eviction::OpenConnections,
    notice::Notice,
    proxy,
    split_stream::Transport,
    timeouts::{Patient, Requests},
    workers::{Dealt, Workers},
};
use crate::{
    config::ListenSettings,
    http::{Connection, Service},
    limits::{Network, Shares},
};

/// How many bytes the request line and the headers may have together; more are
/// answered with 431.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// How long to pause when a connection cannot be accepted, for want of file
/// descriptors above all. Without it the loop would spin until one is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How soon to look again for an idle connection when all have requests in hand.
const EVICTION_PAUSE: Duration = Duration::from_millis(50);

/// Serves connections from `listener` on `workers` until `shutdown`, then lets
/// requests finish for as long as `settings.drain_timeout` and closes what is left.
///
/// With `tls`, the certificate is watched and read again when it changes.
pub async fn serve(
    listener: TcpListener,
    service: impl Service,
    workers: &Workers,
    settings: &ListenSettings,
    tls: Option<Tls>,
    shutdown: CancellationToken,
) {
    let tasks = TaskTracker::new();
    if let Some(tls) = &tls {
        tasks.spawn(tls.clone().reload_until(shutdown.clone()));
    }
    let connections = Connections {
        service,
        tls,
        header_timeout: settings.header_timeout,
        trusted_proxies: settings.trusted_proxies.clone(),
        proxy_protocol: settings.proxy_protocol,
        clients: Shares::new(settings.connections_per_address),
        open: Arc::default(),
        finish: Notice::default(),
        close: Notice::default(),
    };
    let (finish, close) = (connections.finish.clone(), connections.close.clone());

    let connections = Arc::new(connections);
    accept_until(&shutdown, &listener, &connections, settings.connections, workers, &tasks).await;

    drop(listener);
    finish.give();
    tasks.close();
    if time::timeout(settings.drain_timeout, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "closing connections that did not finish in time");
        close.give();
        tasks.wait().await;
    }
}

/// Accepts connections, each in a task of its own, `limit` of them at once, and
/// deals them out to the workers. With that many, idle ones are closed for new ones;
/// where none is idle a new one waits.
async fn accept_until(
    shutdown: &CancellationToken,
    listener: &TcpListener,
    connections: &Arc<Connections<impl Service>>,
    limit: u32,
    workers: &Workers,
    tasks: &TaskTracker,
) {
    let permits = Arc::new(Semaphore::new(limit.try_into().unwrap_or(Semaphore::MAX_PERMITS)));
    let mut failing = false;
    loop {
        // Of connections over the limit one is held open without being served; the others
        // stay in the system's queue.
        let accepted = shutdown
            .run_until_cancelled(async {
                let (stream, peer) = listener.accept().await?;
                Ok::<_, io::Error>((make_room(&permits, &connections.open).await, stream, peer))
            })
            .await;
        match accepted {
            None => return,
            Some(Ok((permit, stream, peer))) => {
                failing = false;
                let Some(dealt) = workers.deal() else { return };
                let (connections, runtime) = (connections.clone(), dealt.runtime().clone());
                // From here on it belongs to the runtime of its worker.
                let stream = match stream.into_std() {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::debug!(%peer, %error, "a connection cannot be handed on");
                        continue;
                    }
                };
                let serving = async move {
                    let _open = Open::count(permit, dealt);
                    match TcpStream::from_std(stream) {
                        Ok(stream) => connections.serve(stream, peer).await,
                        Err(error) => tracing::debug!(%peer, %error, "a connection cannot be taken on"),
                    }
                };
                tasks.spawn_on(serving, &runtime);
            }
            Some(Err(error)) if concerns_one_connection(&error) => {}
            Some(Err(error)) => {
                // One line for a row of failures: the log needs space as well.
                if !failing {
                    tracing::error!(%error, "cannot accept connections, trying again");
                }
                failing = true;
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for a permit, and closes an idle connection when there is none.
async fn make_room(permits: &Arc<Semaphore>, open: &OpenConnections) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        open.evict_one();
        if let Ok(permit) = time::timeout(EVICTION_PAUSE, permits.clone().acquire_owned()).await {
            return permit.ok();
        }
    }
}

/// A connection that counts as open, whatever becomes of its task.
struct Open {
    gauge: Gauge,
    _permit: Option<OwnedSemaphorePermit>,
    _dealt: Dealt,
}

impl Open {
    fn count(permit: Option<OwnedSemaphorePermit>, dealt: Dealt) -> Self {
        let gauge = gauge!("lockable_connections");
        gauge.increment(1);
        Self { gauge, _permit: permit, _dealt: dealt }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.decrement(1);
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// What all connections share.
struct Connections<S> {
    service: S,
    tls: Option<Tls>,
    header_timeout: Duration,
    trusted_proxies: Vec<IpNet>,
    proxy_protocol: bool,
    clients: Arc<Shares<Network>>,
    open: Arc<OpenConnections>,
    /// Finish the request at hand, then close.
    finish: Notice,
    /// Close at once.
    close: Notice,
}

impl<S: Service> Connections<S> {
    async fn serve(&self, mut stream: TcpStream, peer: SocketAddr) {
        // Answers are small and written whole: there is nothing to wait for.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let Some(peer) = self.close.unless(self.client(&mut stream, peer)).await.flatten() else { return };
        // Many clients come through one proxy.
        let _neighbour = match self.is_trusted(peer) {
            true => None,
            false => match self.clients.admit(peer.ip()) {
                Some(neighbour) => Some(neighbour),
                None => {
                    counter!("lockable_connections_refused_total").increment(1);
                    tracing::debug!(%peer, "this address has as many connections as it may");
                    return;
                }
            },
        };
        let stream = Transport::new(stream);
        let connection = Connection::new(peer, stream.shared());
        let requests = Requests::default();
        let _evictable = self.open.add(connection.clone(), requests.clone());
        let served = async {
            match &self.tls {
                None => self.serve_http(stream, connection, requests).await,
                // Boxed: its room would be taken in every connection.
                Some(tls) => match time::timeout(self.header_timeout, tls.accept(stream)).await {
                    Ok(Ok(stream)) => Box::pin(self.serve_http(stream, connection, requests)).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
                },
            }
        };
        self.close.unless(served).await;
    }

    /// Where the client is, by the word of the proxy that passes its connection on.
    async fn client(&self, stream: &mut TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
        if !(self.proxy_protocol && self.is_trusted(peer)) {
            return Some(peer);
        }
        match time::timeout(self.header_timeout, proxy::read_client(stream)).await {
            Ok(Ok(client)) => Some(client.unwrap_or(peer)),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "a proxy does not say whose connection it passes on");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "a proxy took too long to say whose connection it passes on");
                None
            }
        }
    }

    fn is_trusted(&self, peer: SocketAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer.ip().to_canonical()))
    }

    async fn serve_http(&self, stream: impl AsyncRead + AsyncWrite + Unpin, client: Connection, requests: Requests) {
        let io = TokioIo::new(Patient::new(stream, requests.clone(), self.header_timeout));
        let service = service_fn(|request| {
            let in_hand = requests.begin();
            // Boxed: a connection would keep the room for it between requests.
            Box::pin(self.service.answer(request, &client).map(|answer| {
                drop(in_hand);
                Ok::<_, Infallible>(answer)
            }))
        });
        let mut connection = pin!(
            http1::Builder::new()
                .header_read_timeout(None) // `Patient` sees to it.
                .max_header_size(HEAD_BYTES_MAX)
                .max_buf_size(HEAD_BYTES_MAX)
                // Answers are short: to copy one behind its head costs less than to
                // have the system collect both, a twentieth of a request.
                .writev(false)
                .serve_connection(io, service)
        );
        let finished = match self.finish.unless(connection.as_mut()).await {
            Some(finished) => finished,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = finished {
            tracing::debug!(peer = %client.peer(), %error, "connection ended early");
        }
    }
}
