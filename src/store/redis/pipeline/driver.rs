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

use super::{decode::Decoder, header::LINE_BYTES_MAX, queue::Queue};

/// How much is read at once: room for the beginning of a line, and as much again.
const INCOMING_BYTES: usize = 2 * LINE_BYTES_MAX;

/// The task that has a pipeline's stream: it sends what is asked, and gives the
/// answers to those who wait.
pub(super) struct Driver<S> {
    stream: S,
    queue: Arc<Queue>,
    /// What is being sent, and how much of it has gone out.
    sending: Vec<u8>,
    sent: usize,
    is_flushed: bool,
    /// What came in and was not read yet: less than a line, between two rounds.
    incoming: Box<[u8]>,
    filled: usize,
    decoder: Decoder,
    /// One for all commands, set to the soonest deadline and left there when that
    /// was met: under load it runs out once for many.
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Instant>,
    /// Why it ends.
    reason: String,
    /// Told that it has ended.
    gone: CancellationToken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(stream: S, queue: Arc<Queue>, gone: CancellationToken) -> Self {
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
            gone,
        }
    }

    /// Runs until the stream ends, or nobody asks any more.
    pub(super) async fn run(mut self) {
        self.reason = poll_fn(|context| self.poll(context)).await;
    }

    /// Does all that can be done; returns why it ends.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<String> {
        // Answers first: whoever is late by a hair is answered.
        if let Poll::Ready(reason) = self.receive(context) {
            return Poll::Ready(reason);
        }
        let taken = self.queue.take(&mut self.sending, context.waker());
        if taken.is_left {
            return Poll::Ready("nobody asks any more".into());
        }
        if let Poll::Ready(Err(error)) = self.send(context) {
            return Poll::Ready(error.to_string());
        }
        self.expire(taken.soonest, context);
        Poll::Pending
    }

    fn receive(&mut self, context: &mut Context<'_>) -> Poll<String> {
        loop {
            let mut room = ReadBuf::new(self.incoming.get_mut(self.filled..).unwrap_or_default());
            if let Err(error) = ready!(Pin::new(&mut self.stream).poll_read(context, &mut room)) {
                return Poll::Ready(error.to_string());
            }
            let count = room.filled().len();
            if count == 0 {
                return Poll::Ready("the connection was closed".into());
            }
            self.filled += count;
            if let Err(reason) = self.give_answers() {
                return Poll::Ready(reason);
            }
        }
    }

    fn give_answers(&mut self) -> Result<(), String> {
        let mut input = self.incoming.get(..self.filled).unwrap_or_default();
        loop {
            let (read, answer) = self.decoder.read(input).map_err(|garbled| garbled.to_string())?;
            input = input.get(read..).unwrap_or_default();
            let Some(answer) = answer else { break };
            if !self.queue.answer(answer) {
                return Err("Redis answered what was not asked".into());
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

    fn expire(&mut self, mut soonest: Option<Instant>, context: &mut Context<'_>) {
        loop {
            if let Some(soonest) = soonest.filter(|soonest| self.timer_at.is_none_or(|at| *soonest < at)) {
                self.timer.as_mut().reset(soonest);
                self.timer_at = Some(soonest);
            }
            if self.timer_at.is_none() || self.timer.as_mut().poll(context).is_pending() {
                return;
            }
            self.timer_at = None;
            soonest = self.queue.expire(Instant::now());
        }
    }
}

/// Also when its task is dropped, with its runtime: nobody may wait for ever.
impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.queue.end(std::mem::take(&mut self.reason));
        self.gone.cancel();
    }
}
