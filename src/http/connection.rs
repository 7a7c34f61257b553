use std::{
    future::poll_fn,
    net::{Shutdown, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::{io::Interest, net::tcp::OwnedWriteHalf, time::sleep};

use super::connection_cache::ConnectionCache;

/// The client connection of a request. Cheap to clone.
#[derive(Clone)]
pub struct Connection(Arc<ConnectionState>);

struct ConnectionState {
    peer: SocketAddr,
    stream: Arc<Mutex<OwnedWriteHalf>>,
    /// The authentication of the last request.
    cache: Mutex<Option<Arc<ConnectionCache>>>,
}

impl Connection {
    /// The interval of checks for the end of the stream when the client has sent further bytes.
    const POLL_INTERVAL: Duration = Duration::from_millis(500);

    /// The idle time before TCP keepalive probes a waiting client, and the interval of the probes.
    /// Together they are shorter than the lifetime of a queue entry without a request.
    const SILENCE: Duration = Duration::from_secs(5);
    const PROBE_INTERVAL: Duration = Duration::from_secs(2);

    pub fn new(peer: SocketAddr, stream: Arc<Mutex<OwnedWriteHalf>>) -> Self {
        Self(Arc::new(ConnectionState { peer, stream, cache: Mutex::default() }))
    }

    /// The address of the client, or of its proxy.
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// The authentication of the last request. Most connections send the same token with every request.
    pub(super) fn cache(&self) -> Option<Arc<ConnectionCache>> {
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last use of a valid token, to the second; `None` if there was none.
    pub fn token_used(&self) -> Option<Instant> {
        self.cache().map(|cache| cache.last_used())
    }

    /// Shuts down the connection in both directions. Its task then reads the end of the stream, as if the
    /// client had closed it.
    pub fn shut_down(&self) {
        let stream = self.0.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = SockRef::from(stream.as_ref()).shutdown(Shutdown::Both) {
            tracing::debug!(peer = %self.peer(), %error, "failed to shut down a connection");
        }
    }

    pub(super) fn set_cache(&self, cache: Arc<ConnectionCache>) {
        *self.0.cache.lock().unwrap_or_else(PoisonError::into_inner) = Some(cache);
    }

    /// Waits until the client closes the connection. hyper detects this by itself, except when the client
    /// has pipelined another request: then it does not read on, and misses the end of the stream.
    pub(super) async fn client_closed(&self) {
        self.probe();
        while poll_fn(|cx| self.poll_readable(cx)).await == Readable::Bytes {
            // The socket stays readable while it has unread bytes, so poll for the end.
            sleep(Self::POLL_INTERVAL).await;
        }
    }

    /// Enables TCP keepalive: a client without power sends no FIN, and must not be granted a lock for a
    /// whole lease.
    fn probe(&self) {
        let probes = TcpKeepalive::new().with_time(Self::SILENCE).with_interval(Self::PROBE_INTERVAL).with_retries(2);
        let stream = self.0.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = SockRef::from(stream.as_ref()).set_tcp_keepalive(&probes) {
            tracing::debug!(%error, "failed to enable TCP keepalive");
        }
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<Readable> {
        let stream = self.0.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = stream.as_ref();
        if stream.poll_read_ready(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(match stream.ready(Interest::READABLE).now_or_never() {
            Some(Ok(ready)) if !ready.is_read_closed() => Readable::Bytes,
            _ => Readable::End,
        })
    }
}

/// The readable state of a socket.
#[derive(PartialEq, Eq)]
enum Readable {
    Bytes,
    End,
}
