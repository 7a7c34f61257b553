use std::{
    future::{Future as _, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::http::{HeaderValue, Request, header::CONNECTION};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
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
    half_closed::{self, HalfClosedTimeout},
    notice::Notice,
    proxy,
    split_stream::SplitStream,
    timeouts::{RequestCounter, TimeoutStream},
    workers::{Assignment, Workers},
};
use crate::{
    config::ListenSettings,
    http::{Connection, Service},
    limits::{Network, PerKeyLimit},
};

/// Maximum size of the request line and headers together, in bytes. Larger requests are answered
/// with 431.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Pause after a failed accept, which mostly means that no file descriptor is free. Without it the
/// loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Interval between searches for an idle connection while all connections serve requests.
const EVICTION_PAUSE: Duration = Duration::from_millis(50);

/// Serves connections from `listener` on `workers` until `shutdown`. Requests then have
/// `settings.drain_timeout` to finish; after it the remaining connections are closed.
///
/// With `tls`, changed certificate files are reloaded.
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
        clients: PerKeyLimit::new(settings.connections_per_address),
        open: Arc::default(),
        finish: Notice::default(),
        close: Notice::default(),
    };
    let (finish, close) = (connections.finish.clone(), connections.close.clone());

    let connections = Arc::new(connections);
    accept_until(&shutdown, &listener, &connections, settings.connections, workers, &tasks).await;

    drop(listener);
    finish.notify();
    tasks.close();
    if time::timeout(settings.drain_timeout, tasks.wait()).await.is_err() {
        tracing::warn!(
            connections = tasks.len(),
            "closing connections that did not finish in time; raise LOCKABLE_DRAIN_TIMEOUT to wait longer"
        );
        close.notify();
        tasks.wait().await;
    }
}

/// Accepts up to `limit` connections and assigns each to a worker as a task of its own. At the
/// limit, each new connection closes an idle one, or waits if none is idle.
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
        // Beyond the limit, one connection is accepted but not served; the others wait in the
        // system's accept queue.
        let accepted = shutdown
            .run_until_cancelled(async {
                let (stream, peer) = listener.accept().await?;
                Ok::<_, io::Error>((acquire_or_evict(&permits, &connections.open).await, stream, peer))
            })
            .await;
        match accepted {
            None => return,
            Some(Ok((permit, stream, peer))) => {
                failing = false;
                let Some(assignment) = workers.assign() else { return };
                let (connections, runtime) = (connections.clone(), assignment.runtime().clone());
                // From here on the stream belongs to the runtime of its worker.
                let stream = match stream.into_std() {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::debug!(%peer, %error, "cannot move a connection to its worker");
                        continue;
                    }
                };
                let serving = async move {
                    let _open = OpenGuard::new(permit, assignment);
                    match TcpStream::from_std(stream) {
                        Ok(stream) => connections.serve(stream, peer).await,
                        Err(error) => tracing::debug!(%peer, %error, "cannot register a connection with its worker"),
                    }
                };
                tasks.spawn_on(serving, &runtime);
            }
            Some(Err(error)) if is_peer_error(&error) => {}
            Some(Err(error)) => {
                // Log the first of several consecutive failures only: a full log would make matters
                // worse.
                if !failing {
                    tracing::error!(%error, "cannot accept connections, retrying");
                }
                failing = true;
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for a permit and closes an idle connection if none is free.
async fn acquire_or_evict(permits: &Arc<Semaphore>, open: &OpenConnections) -> Option<OwnedSemaphorePermit> {
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

/// Counts a connection as open until it is dropped, also if the connection's task panics.
struct OpenGuard {
    gauge: Gauge,
    _permit: Option<OwnedSemaphorePermit>,
    _assignment: Assignment,
}

impl OpenGuard {
    fn new(permit: Option<OwnedSemaphorePermit>, assignment: Assignment) -> Self {
        let gauge = gauge!("lockable_connections");
        gauge.increment(1);
        Self { gauge, _permit: permit, _assignment: assignment }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.gauge.decrement(1);
    }
}

fn is_peer_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// State that all connections share.
struct Connections<S> {
    service: S,
    tls: Option<Tls>,
    header_timeout: Duration,
    trusted_proxies: Vec<IpNet>,
    proxy_protocol: bool,
    clients: Arc<PerKeyLimit<Network>>,
    open: Arc<OpenConnections>,
    /// Finish the current request, then close.
    finish: Notice,
    /// Close immediately.
    close: Notice,
}

impl<S: Service> Connections<S> {
    async fn serve(&self, mut stream: TcpStream, peer: SocketAddr) {
        // Answers are small and written at once: delaying them gains nothing.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let Some(peer) = self.close.run_until_notified(self.client(&mut stream, peer)).await.flatten() else { return };
        // A trusted proxy carries the connections of many clients, so the limit per address does
        // not apply.
        let _connection_permit = match self.is_trusted(peer) {
            true => None,
            false => match self.clients.try_acquire(peer.ip()) {
                Some(permit) => Some(permit),
                None => {
                    counter!("lockable_connections_refused_total").increment(1);
                    tracing::debug!(%peer, "rejected a connection: the limit of connections per address is reached");
                    return;
                }
            },
        };
        let stream = SplitStream::new(stream);
        let connection = Connection::new(peer, stream.shared());
        let requests = RequestCounter::default();
        let _eviction_guard = self.open.add(connection.clone(), requests.clone());
        let served = async {
            match &self.tls {
                None => self.serve_http(stream, connection, requests).await,
                // Boxed: unboxed, this future would enlarge every connection's task.
                Some(tls) => match time::timeout(self.header_timeout, tls.accept(stream)).await {
                    Ok(Ok(stream)) => Box::pin(self.serve_http(stream, connection, requests)).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
                },
            }
        };
        self.close.run_until_notified(served).await;
    }

    /// Returns the client's address, from the PROXY protocol header if a trusted proxy sends one.
    async fn client(&self, stream: &mut TcpStream, peer: SocketAddr) -> Option<SocketAddr> {
        if !(self.proxy_protocol && self.is_trusted(peer)) {
            return Some(peer);
        }
        match time::timeout(self.header_timeout, proxy::read_client(stream)).await {
            Ok(Ok(client)) => Some(client.unwrap_or(peer)),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "rejected a connection: invalid PROXY protocol header");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "rejected a connection: timed out waiting for the PROXY protocol header");
                None
            }
        }
    }

    fn is_trusted(&self, peer: SocketAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer.ip().to_canonical()))
    }

    async fn serve_http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        client: Connection,
        requests: RequestCounter,
    ) {
        let io = TokioIo::new(TimeoutStream::new(stream, requests.clone(), self.header_timeout));
        let service = service_fn(|request: Request<Incoming>| {
            let body_bytes = request.body().size_hint().exact();
            let mut in_flight = Some(requests.begin(body_bytes));
            let mut half_closed = HalfClosedTimeout::new(&client, self.header_timeout);
            let client = &client;
            // Boxed: unboxed, the future would take memory in each idle connection.
            let mut answering = Box::pin(self.service.answer(request, client));
            poll_fn(move |cx| {
                let Poll::Ready(mut answer) = answering.as_mut().poll(cx) else {
                    return half_closed.poll(cx).map(Err);
                };
                if body_bytes.is_none() {
                    // `RequestHeads` does not know where such a body ends.
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Poll::Ready(Ok(match in_flight.take() {
                    Some(in_flight) => half_closed::finish(answer, client, in_flight),
                    None => answer,
                }))
            })
        });
        let mut connection = pin!(
            http1::Builder::new()
                // hyper would drop a request whose client has closed its sending side.
                .half_close(true)
                .header_read_timeout(None) // `TimeoutStream` applies this timeout.
                .max_header_size(HEAD_BYTES_MAX)
                .max_buf_size(HEAD_BYTES_MAX)
                // Answers are short: copying a body after its headers is cheaper than a vectored
                // write, by 5 % of a request's CPU time.
                .writev(false)
                .serve_connection(io, service)
        );
        let finished = match self.finish.run_until_notified(connection.as_mut()).await {
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
