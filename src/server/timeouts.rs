//! Client timeouts. hyper has one timeout for slow requests and idle connections, and none for a
//! client that does not read its answer, so the stream enforces them.

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

use super::request_heads::RequestHeads;

/// Maximum idle time between two requests. Longer than the 60 s of common load balancers: the side
/// that reuses connections should close them, because a request sent into a closing connection is
/// lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// A stream that fails if the client takes longer than `timeout` to send a request head or to read
/// an answer, or longer than [`IDLE_TIMEOUT`] to begin the next request. No timeout runs while a
/// handler works.
pub(super) struct TimeoutStream<S> {
    stream: S,
    heads: RequestHeads,
    requests: RequestCounter,
    timeout: Duration,
    /// Value of the request counter when bytes were last read.
    read_at: Option<u64>,
    /// What the client must send, and the deadline.
    reading: Option<(Awaited, Instant)>,
    /// Fires at the deadline or earlier: resetting the timer for each request would cost more than
    /// an occasional early wake-up.
    timer: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

/// What the client must send, with the value of the request counter: the timeout restarts when
/// either changes, not with every byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Head(u64),
    NextRequest(u64),
}

impl<S> TimeoutStream<S> {
    pub(super) fn new(stream: S, requests: RequestCounter, timeout: Duration) -> Self {
        let heads = RequestHeads::default();
        Self { stream, heads, requests, timeout, read_at: None, reading: None, timer: None, writing: None }
    }

    /// Ready with an error once the client has missed the deadline.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let count = self.requests.count();
        if RequestCounter::is_in_flight_at(count) {
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
                return Poll::Ready(timed_out());
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
        timer.as_mut().poll(cx).map(|()| Err(timed_out()))
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client timed out")
}

impl<S: AsyncRead + Unpin> AsyncRead for TimeoutStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, heads, requests, .. } = &mut *self;
        match heads.poll_read(stream, requests, cx, buf) {
            Poll::Ready(read) => {
                self.read_at = Some(self.requests.count());
                Poll::Ready(read)
            }
            Poll::Pending => self.poll_overdue(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimeoutStream<S> {
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
        // hyper does not poll for bytes between an answer and the next request, so the idle timeout
        // starts here.
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

/// Counts each request of a connection at its begin and at its end: an odd value means that a
/// request is in flight.
#[derive(Clone, Default)]
pub(super) struct RequestCounter(Arc<Counts>);

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    /// The length of the last request's body; [`Self::UNKNOWN`] if it is sent in chunks.
    body_bytes: AtomicU64,
}

impl Counts {
    const UNKNOWN: u64 = u64::MAX;
}

impl RequestCounter {
    /// Counts a request with a body of this length as in flight until the guard is dropped.
    pub(super) fn begin(&self, body_bytes: Option<u64>) -> InFlightRequest {
        self.0.body_bytes.store(body_bytes.unwrap_or(Counts::UNKNOWN), Ordering::Relaxed);
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        InFlightRequest(self.clone())
    }

    /// The length of the last request's body, unless it is sent in chunks.
    pub(super) fn body_bytes(&self) -> Option<u64> {
        Some(self.0.body_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != Counts::UNKNOWN)
    }

    /// Whether a request is in flight.
    pub(super) fn is_in_flight(&self) -> bool {
        Self::is_in_flight_at(self.count())
    }

    pub(super) fn count(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    fn is_in_flight_at(count: u64) -> bool {
        count % 2 == 1
    }
}

pub(super) struct InFlightRequest(RequestCounter);

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        self.0.0.requests.fetch_add(1, Ordering::Relaxed);
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

    /// Serves one connection; each request takes `handling` and returns `answer_bytes` bytes.
    fn client_of(handling: Duration, answer_bytes: usize) -> DuplexStream {
        let (client, server) = duplex(1024);
        let requests = RequestCounter::default();
        tokio::spawn(async move {
            let io = TokioIo::new(TimeoutStream::new(server, requests.clone(), TIMEOUT));
            let service = service_fn(|_| {
                let in_flight = requests.begin(Some(0));
                async move {
                    sleep(handling).await;
                    drop(in_flight);
                    Ok::<_, Infallible>(Response::new("x".repeat(answer_bytes)))
                }
            });
            let _ = http1::Builder::new().header_read_timeout(None).serve_connection(io, service).await;
        });
        client
    }

    /// Reads one small answer.
    async fn read_answer(client: &mut DuplexStream) {
        let mut answer = [0; 1024];
        assert!(client.read(&mut answer).await.unwrap() > 0, "closed before the answer");
    }

    /// Returns how long the connection stays open from now on.
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
    async fn silent_client_is_disconnected_after_the_header_timeout() {
        assert_about(time_to_close(client_of(Duration::ZERO, 1)).await, TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn trickling_bytes_do_not_extend_the_header_timeout() {
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
    async fn connection_may_be_idle_between_requests() {
        let mut client = client_of(Duration::ZERO, 1);
        for _ in 0..3 {
            client.write_all(REQUEST).await.unwrap();
            read_answer(&mut client).await;
            sleep(IDLE_TIMEOUT.mul_f64(0.9)).await;
        }
        assert_about(time_to_close(client).await, IDLE_TIMEOUT.mul_f64(0.1));
    }

    #[tokio::test(start_paused = true)]
    async fn later_request_has_the_same_header_timeout() {
        let mut client = client_of(Duration::ZERO, 1);
        client.write_all(REQUEST).await.unwrap();
        read_answer(&mut client).await;
        sleep(TIMEOUT * 2).await;
        client.write_all(&REQUEST[..4]).await.unwrap();
        assert_about(time_to_close(client).await, TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn handler_time_does_not_count() {
        let mut client = client_of(IDLE_TIMEOUT * 2, 1);
        client.write_all(REQUEST).await.unwrap();
        read_answer(&mut client).await;
        assert_about(time_to_close(client).await, IDLE_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_does_not_read_is_disconnected() {
        let mut client = client_of(Duration::ZERO, 1 << 20);
        client.write_all(REQUEST).await.unwrap();
        sleep(TIMEOUT + Duration::from_secs(1)).await;
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() < 1 << 20, "the answer was cut off");
    }
}
