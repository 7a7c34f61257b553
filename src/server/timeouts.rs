//! How long a client may keep a connection waiting. hyper has one time-out for
//! both a slow request and an idle connection, and none for a client that does
//! not take its answer, so the transport keeps the time itself.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

/// How long a connection may lie idle between two requests. Longer than the
/// 60 s of common load balancers, since the side that reuses connections should
/// be the one to close them: a request sent into a closing connection is lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// A transport that fails when the client takes longer than `timeout` to send a
/// request's head or to take an answer, or longer than [`IDLE_TIMEOUT`] to
/// begin another request. While a request is handled, nothing is due from the
/// client, and the time belongs to the handler.
pub(super) struct Patient<S> {
    stream: S,
    requests: Requests,
    timeout: Duration,
    /// The count of requests when bytes last came.
    read_at: Option<u64>,
    /// What the client is to send, and by when.
    reading: Option<(Awaited, Instant)>,
    /// Runs out at that time, or before: to set it anew for each request would
    /// cost more than to look again now and then.
    timer: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

/// What the client is to send, and after how many begun and ended requests: the
/// clock starts again when either changes, and not with every byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Head(u64),
    NextRequest(u64),
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, requests: Requests, timeout: Duration) -> Self {
        Self { stream, requests, timeout, read_at: None, reading: None, timer: None, writing: None }
    }

    /// Ready with an error once what the client is to send is overdue.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let count = self.requests.count();
        if Requests::is_one_in_hand(count) {
            return Poll::Pending;
        }
        let (awaited, timeout) = if count == 0 || self.read_at == Some(count) {
            (Awaited::Head(count), self.timeout)
        } else {
            (Awaited::NextRequest(count), IDLE_TIMEOUT)
        };
        let deadline = match self.reading {
            Some((running_for, deadline)) if running_for == awaited => deadline,
            _ => {
                let deadline = Instant::now() + timeout;
                self.reading = Some((awaited, deadline));
                deadline
            }
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if deadline <= timer.deadline() {
                return Poll::Ready(too_long());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    fn poll_written<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            return written;
        }
        let timer = self.writing.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
        timer.as_mut().poll(cx).map(|()| Err(too_long()))
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client took too long")
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(read) => {
                self.read_at = Some(self.requests.count());
                Poll::Ready(read)
            }
            Poll::Pending => self.poll_overdue(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.poll_written(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.poll_written(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        let flushed = self.poll_written(flushed, cx);
        // hyper does not ask for bytes again between an answer and the first of
        // the next request, so this is where that wait begins.
        if matches!(flushed, Poll::Ready(Ok(())))
            && let Poll::Ready(overdue) = self.poll_overdue(cx)
        {
            return Poll::Ready(Err(overdue));
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.poll_written(shut, cx)
    }
}

/// Counts a connection's requests, once as they begin and once as they end, so
/// that the transport knows when one is in hand.
#[derive(Clone, Default)]
pub(super) struct Requests(Arc<AtomicU64>);

impl Requests {
    /// Counts a request that is in hand until the answer is dropped.
    pub(super) fn begin(&self) -> InHand {
        self.0.fetch_add(1, Ordering::Relaxed);
        InHand(self.clone())
    }

    /// Whether a request is in hand.
    pub(super) fn is_any_in_hand(&self) -> bool {
        Self::is_one_in_hand(self.count())
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn is_one_in_hand(count: u64) -> bool {
        count % 2 == 1
    }
}

pub(super) struct InHand(Requests);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::{Response, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";

    /// Serves one connection, each request taking as long as said and answered
    /// with as many bytes.
    fn client_of(handling: Duration, answer_bytes: usize) -> DuplexStream {
        let (client, server) = duplex(1024);
        let requests = Requests::default();
        tokio::spawn(async move {
            let io = TokioIo::new(Patient::new(server, requests.clone(), TIMEOUT));
            let service = service_fn(|_| {
                let in_hand = requests.begin();
                async move {
                    sleep(handling).await;
                    drop(in_hand);
                    Ok::<_, Infallible>(Response::new("x".repeat(answer_bytes)))
                }
            });
            let _ = http1::Builder::new().header_read_timeout(None).serve_connection(io, service).await;
        });
        client
    }

    /// Reads one answer to the small requests of these tests.
    async fn read_answer(client: &mut DuplexStream) {
        let mut answer = [0; 1024];
        assert!(client.read(&mut answer).await.unwrap() > 0, "closed before the answer");
    }

    /// For how long the connection stays open from now on.
    async fn time_to_close(mut client: DuplexStream) -> Duration {
        let begin = Instant::now();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        begin.elapsed()
    }

    #[track_caller]
    fn assert_about(actual: Duration, expected: Duration) {
        assert!(actual.abs_diff(expected) < Duration::from_millis(10), "{actual:?} instead of {expected:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_waited_for_no_longer_than_for_a_head() {
        assert_about(time_to_close(client_of(Duration::ZERO, 1)).await, TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_trickle_in_do_not_prolong_the_wait() {
        let (mut reader, mut writer) = tokio::io::split(client_of(Duration::ZERO, 1));
        tokio::spawn(async move {
            for byte in REQUEST {
                let _ = writer.write_all(&[*byte]).await;
                sleep(TIMEOUT / 10).await;
            }
        });
        let begin = Instant::now();
        assert_eq!(reader.read(&mut [0; 64]).await.unwrap(), 0, "nothing is answered");
        assert_about(begin.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_a_connection_may_lie_idle() {
        let mut client = client_of(Duration::ZERO, 1);
        for _ in 0..3 {
            client.write_all(REQUEST).await.unwrap();
            read_answer(&mut client).await;
            sleep(IDLE_TIMEOUT.mul_f64(0.9)).await;
        }
        assert_about(time_to_close(client).await, IDLE_TIMEOUT.mul_f64(0.1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_request_has_as_long_as_the_first() {
        let mut client = client_of(Duration::ZERO, 1);
        client.write_all(REQUEST).await.unwrap();
        read_answer(&mut client).await;
        sleep(TIMEOUT * 2).await;
        client.write_all(&REQUEST[..4]).await.unwrap();
        assert_about(time_to_close(client).await, TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_the_handler_does_not_count() {
        let mut client = client_of(IDLE_TIMEOUT * 2, 1);
        client.write_all(REQUEST).await.unwrap();
        read_answer(&mut client).await;
        assert_about(time_to_close(client).await, IDLE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_no_answer_is_left() {
        let mut client = client_of(Duration::ZERO, 1 << 20);
        client.write_all(REQUEST).await.unwrap();
        sleep(TIMEOUT + Duration::from_secs(1)).await;
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() < 1 << 20, "the answer was cut off");
    }
}
