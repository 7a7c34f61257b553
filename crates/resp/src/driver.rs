use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{decode::Decoder, header::HEADER_BYTES_MAX, queue::CommandQueue};

/// The size of the read buffer: one incomplete header, and as much again.
const INCOMING_BYTES: usize = 2 * HEADER_BYTES_MAX;

/// The task that owns a pipeline's stream: it sends commands and resolves them with replies.
pub(super) struct Driver<S> {
    stream: S,
    queue: Arc<CommandQueue>,
    /// The bytes in transmission, and how many of them are sent.
    sending: Vec<u8>,
    sent: usize,
    is_flushed: bool,
    /// Received bytes that are not decoded yet: less than a header, between two polls.
    incoming: Box<[u8]>,
    filled: usize,
    decoder: Decoder,
    /// One timer for all commands, set to the earliest deadline. It stays set when that command
    /// is answered: under load it fires once for many commands.
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Instant>,
    /// Why the connection ended.
    reason: String,
    /// Cancelled when the connection ends.
    closed: CancellationToken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(stream: S, queue: Arc<CommandQueue>, closed: CancellationToken) -> Self {
        Self {
            stream,
            queue,
            sending: Vec::new(),
            sent: 0,
            is_flushed: true,
            incoming: vec![0; INCOMING_BYTES].into(),
            filled: 0,
            decoder: Decoder::default(),
            timer: Box::pin(sleep_until(Instant::now())),
            timer_at: None,
            reason: "its runtime has ended".into(),
            closed,
        }
    }

    /// Runs until the stream ends, or the pipeline is dropped.
    pub(super) async fn run(mut self) {
        self.reason = poll_fn(|context| self.poll(context)).await;
    }

    /// Makes all possible progress. Returns the reason when the connection ends.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<String> {
        // Receive before expiry: a reply that arrives together with its deadline counts.
        if let Poll::Ready(reason) = self.receive(context) {
            return Poll::Ready(reason);
        }
        let work = self.queue.take(&mut self.sending, context.waker());
        if work.is_closed {
            return Poll::Ready("the pipeline was dropped".into());
        }
        if let Poll::Ready(Err(error)) = self.send(context) {
            return Poll::Ready(error.to_string());
        }
        self.expire(work.next_deadline, context);
        Poll::Pending
    }

    fn receive(&mut self, context: &mut Context<'_>) -> Poll<String> {
        loop {
            let mut buffer = ReadBuf::new(self.incoming.get_mut(self.filled..).unwrap_or_default());
            if let Err(error) = ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                return Poll::Ready(error.to_string());
            }
            let count = buffer.filled().len();
            if count == 0 {
                return Poll::Ready("the connection was closed".into());
            }
            self.filled += count;
            if let Err(reason) = self.decode_replies() {
                return Poll::Ready(reason);
            }
        }
    }

    fn decode_replies(&mut self) -> Result<(), String> {
        let mut input = self.incoming.get(..self.filled).unwrap_or_default();
        loop {
            let (read, reply) = self.decoder.read(input).map_err(|error| error.to_string())?;
            input = input.get(read..).unwrap_or_default();
            let Some(reply) = reply else { break };
            if !self.queue.resolve(reply) {
                return Err("Redis sent a reply without a command".into());
            }
        }
        let rest = self.filled - input.len()..self.filled;
        self.filled = rest.len();
        self.incoming.copy_within(rest, 0);
        Ok(())
    }

    fn send(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while let Some(rest) = self.sending.get(self.sent..).filter(|rest| !rest.is_empty()) {
            self.is_flushed = false;
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        self.sending.clear();
        self.sent = 0;
        if !self.is_flushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn expire(&mut self, mut next_deadline: Option<Instant>, context: &mut Context<'_>) {
        loop {
            if let Some(next_deadline) =
                next_deadline.filter(|next_deadline| self.timer_at.is_none_or(|at| *next_deadline < at))
            {
                self.timer.as_mut().reset(next_deadline);
                self.timer_at = Some(next_deadline);
            }
            if self.timer_at.is_none() || self.timer.as_mut().poll(context).is_pending() {
                return;
            }
            self.timer_at = None;
            next_deadline = self.queue.expire(Instant::now());
        }
    }
}

/// Also runs when the runtime drops the task, so that pending commands fail.
impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.queue.fail(std::mem::take(&mut self.reason));
        self.closed.cancel();
    }
}
