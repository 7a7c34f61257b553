use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{io::Interest, net::tcp::OwnedWriteHalf, time::sleep};

/// The connection on which a request came.
#[derive(Clone)]
pub struct Connection {
    pub peer: SocketAddr,
    stream: Arc<Mutex<OwnedWriteHalf>>,
}

impl Connection {
    /// How soon to look again when the client has sent more than its request.
    const LOOK_INTERVAL: Duration = Duration::from_millis(500);

    pub fn new(peer: SocketAddr, stream: Arc<Mutex<OwnedWriteHalf>>) -> Self {
        Self { peer, stream }
    }

    /// Waits until the client has hung up. The server drops what it does for a
    /// client that is gone by itself, but not when that client had sent another
    /// request behind the first: then it reads no further, and does not see the
    /// end.
    pub(super) async fn hung_up(&self) {
        while poll_fn(|cx| self.poll_readable(cx)).await == Readable::Bytes {
            // Readiness says nothing more once there are bytes to read.
            sleep(Self::LOOK_INTERVAL).await;
        }
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<Readable> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
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
