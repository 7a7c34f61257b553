use std::{
    future::poll_fn,
    io,
    net::{Shutdown, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{Interest, Ready},
    net::tcp::OwnedWriteHalf,
    time::sleep,
};

use super::connection_cache::ConnectionCache;
use crate::locks::PendingRevert;

/// The client connection of a request. Cheap to clone.
#[derive(Clone)]
pub struct Connection(Arc<ConnectionState>);

struct ConnectionState {
    peer: SocketAddr,
    stream: Arc<Mutex<OwnedWriteHalf>>,
    /// The authentication of the last request.
    cache: Mutex<Option<Arc<ConnectionCache>>>,
    /// The grant of a client that had closed its sending side before the answer.
    unconfirmed_grant: Mutex<Option<PendingRevert>>,
}

impl Connection {
    /// The interval of checks for the end of the stream when the client has sent further bytes.
    const POLL_INTERVAL: Duration = Duration::from_millis(500);

    /// The time in which a client that has closed both directions answers the head of a response with a
    /// reset: longer than most round-trip times. Also the interval of the checks.
    const RESET_TIMEOUT: Duration = Duration::from_secs(1);
    const RESET_INTERVAL: Duration = Duration::from_millis(50);

    /// The idle time before TCP keepalive probes a waiting client, and the interval of the probes.
    /// Together they are shorter than the lifetime of a queue entry without a request.
    const SILENCE: Duration = Duration::from_secs(5);
    const PROBE_INTERVAL: Duration = Duration::from_secs(2);

    pub fn new(peer: SocketAddr, stream: Arc<Mutex<OwnedWriteHalf>>) -> Self {
        Self(Arc::new(ConnectionState { peer, stream, cache: Mutex::default(), unconfirmed_grant: Mutex::default() }))
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

    /// Waits until the client closes the connection, or only its sending side: nothing distinguishes the
    /// two until the server sends bytes.
    pub async fn client_closed(&self) {
        self.probe();
        while poll_fn(|cx| self.poll_readable(cx)).await == Readable::Bytes {
            // The socket stays readable while it has unread bytes, so poll for the end.
            sleep(Self::POLL_INTERVAL).await;
        }
    }

    /// Ready once the client has closed its sending side, unless it has sent further requests before.
    pub fn poll_half_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_readable(cx) {
            Poll::Ready(Readable::End) => Poll::Ready(()),
            Poll::Ready(Readable::Bytes) | Poll::Pending => Poll::Pending,
        }
    }

    /// Whether the client has closed its sending side.
    pub(super) fn is_half_closed(&self) -> bool {
        let stream = self.0.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = stream.as_ref();
        // Without this check each request would create a waiter of the socket, which takes longer.
        let has_event = stream.try_io(Interest::READABLE, || Ok(())).is_ok();
        has_event && matches!(stream.ready(Interest::READABLE).now_or_never(), Some(ready) if has_ended(&ready))
    }

    /// Keeps the revert of a grant until its answer is sent, or the connection ends.
    pub(super) fn set_unconfirmed_grant(&self, revert: PendingRevert) {
        *self.0.unconfirmed_grant.lock().unwrap_or_else(PoisonError::into_inner) = Some(revert);
    }

    /// The revert of the grant in the answer, if the client may be gone.
    pub fn take_unconfirmed_grant(&self) -> Option<PendingRevert> {
        self.0.unconfirmed_grant.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for `RESET_TIMEOUT` after the server has sent bytes.
    ///
    /// # Errors
    /// As soon as the client has reset the connection, which it had closed in both directions.
    pub async fn expect_no_reset(&self) -> io::Result<()> {
        let mut remaining = Self::RESET_TIMEOUT;
        while !remaining.is_zero() {
            sleep(Self::RESET_INTERVAL).await;
            remaining = remaining.saturating_sub(Self::RESET_INTERVAL);
            let stream = self.0.stream.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(error) = stream.as_ref().take_error()? {
                return Err(error);
            }
        }
        Ok(())
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
            Some(ready) if !has_ended(&ready) => Readable::Bytes,
            _ => Readable::End,
        })
    }
}

fn has_ended(ready: &io::Result<Ready>) -> bool {
    ready.as_ref().map_or(true, |ready| ready.is_read_closed())
}

/// The readable state of a socket.
#[derive(PartialEq, Eq)]
enum Readable {
    Bytes,
    End,
}
