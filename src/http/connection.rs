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

use super::connection_cache::Known;

/// The connection on which a request came. Cheap to clone.
#[derive(Clone)]
pub struct Connection(Arc<Parts>);

struct Parts {
    peer: SocketAddr,
    stream: Arc<Mutex<OwnedWriteHalf>>,
    /// Whose token came last.
    known: Mutex<Option<Arc<Known>>>,
}

impl Connection {
    /// How soon to look again when the client has sent more than its request.
    const LOOK_INTERVAL: Duration = Duration::from_millis(500);

    /// After what silence a waiting client is asked whether it is there, and how
    /// often again; together less than a place without a request is kept.
    const SILENCE: Duration = Duration::from_secs(5);
    const PROBE_INTERVAL: Duration = Duration::from_secs(2);

    pub fn new(peer: SocketAddr, stream: Arc<Mutex<OwnedWriteHalf>>) -> Self {
        Self(Arc::new(Parts { peer, stream, known: Mutex::default() }))
    }

    /// Where the client is, or the proxy through which it comes.
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// Whose token came last. Most connections are of one client, which sends
    /// the same token each time.
    pub(super) fn known(&self) -> Option<Arc<Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When a valid token was last used, to the second; `None` if none ever was.
    pub fn token_used(&self) -> Option<Instant> {
        self.known().map(|known| known.used())
    }

    /// Closes the connection in both directions, whatever its task does: that reads
    /// the end, as if the client had closed it.
    pub fn shut_down(&self) {
        let stream = self.0.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = SockRef::from(stream.as_ref()).shutdown(Shutdown::Both) {
            tracing::debug!(peer = %self.peer(), %error, "a connection cannot be closed");
        }
    }

    pub(super) fn learn(&self, known: Arc<Known>) {
        *self.0.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// Waits until the client has hung up. The server drops what it does for a
    /// client that is gone by itself, but not when that client had sent another
    /// request behind the first: then it reads no further, and does not see the
    /// end.
    pub(super) async fn hung_up(&self) {
        self.probe();
        while poll_fn(|cx| self.poll_readable(cx)).await == Readable::Bytes {
            // Readiness says nothing more once there are bytes to read.
            sleep(Self::LOOK_INTERVAL).await;
        }
    }

    /// Has the system ask a silent client whether it is there: a machine that lost
    /// its power says nothing, and must not be granted a lock for a whole lease.
    fn probe(&self) {
        let probes = TcpKeepalive::new().with_time(Self::SILENCE).with_interval(Self::PROBE_INTERVAL).with_retries(2);
        let stream = self.0.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = SockRef::from(stream.as_ref()).set_tcp_keepalive(&probes) {
            tracing::debug!(%error, "a waiting client is not asked whether it is there");
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

/// What there is to read.
#[derive(PartialEq, Eq)]
enum Readable {
    Bytes,
    End,
}
