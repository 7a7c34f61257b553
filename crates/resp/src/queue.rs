use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    Error, Value,
    encode::{command, size},
};

/// The largest number of pending commands, including expired ones without a reply: all requests
/// and waiters of a server, and half as many again.
pub(super) const PENDING_MAX: usize = 32_768;
/// The largest number of unsent bytes. After Redis has lost its script cache, every concurrent
/// request may send a script's source.
pub(super) const OUTGOING_BYTES_MAX: usize = 32 << 20;
/// The capacity, in bytes and in commands, that the queue keeps after a peak.
const BUFFER_KEPT_MAX: usize = 64 << 10;
const PENDING_KEPT_MAX: usize = 1024;

pub(super) type CommandResult = Result<Value, Error>;

/// The queue between callers and the driver.
#[derive(Default)]
pub(super) struct CommandQueue {
    inner: Mutex<QueueInner>,
}

#[derive(Default)]
struct QueueInner {
    /// Commands that the driver has not taken yet.
    outgoing: Vec<u8>,
    /// Commands without a reply, in the order of their transmission.
    pending: VecDeque<PendingReply>,
    /// No pending command has an earlier deadline.
    next_deadline: Option<Instant>,
    /// The driver's waker, unless the driver is awake already.
    driver: Option<Waker>,
    /// The pipeline was dropped.
    is_closed: bool,
    /// Why the connection ended.
    failure: Option<String>,
}

struct PendingReply {
    /// `None` after the deadline. The entry stays, since the reply may still arrive.
    sender: Option<oneshot::Sender<CommandResult>>,
    deadline: Instant,
}

/// The state of the queue that the driver needs.
pub(super) struct DriverWork {
    pub(super) next_deadline: Option<Instant>,
    pub(super) is_closed: bool,
}

impl CommandQueue {
    /// Queues a command of these words, unless the queue is full.
    pub(super) fn push<'a>(
        &self,
        words: impl Iterator<Item = &'a str> + Clone,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<CommandResult>, Error> {
        let size = size(words.clone());
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.inner();
        if let Some(reason) = &inner.failure {
            return Err(Error::ConnectionLost(reason.clone()));
        }
        if inner.pending.len() >= PENDING_MAX || inner.outgoing.len() + size > OUTGOING_BYTES_MAX {
            return Err(Error::QueueFull);
        }
        inner.outgoing.reserve(size);
        command(&mut inner.outgoing, words);
        inner.pending.push_back(PendingReply { sender: Some(sender), deadline });
        inner.next_deadline = Some(inner.next_deadline.map_or(deadline, |next_deadline| next_deadline.min(deadline)));
        // One wake-up for all commands until the driver runs, which sends them together.
        let driver = inner.driver.take();
        drop(inner);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(receiver)
    }

    /// Takes the queued bytes, if `sent` is empty, and registers the driver's waker.
    pub(super) fn take(&self, sent: &mut Vec<u8>, driver: &Waker) -> DriverWork {
        let mut inner = self.inner();
        if sent.is_empty() {
            sent.shrink_to(BUFFER_KEPT_MAX);
            std::mem::swap(sent, &mut inner.outgoing);
        }
        if inner.driver.is_none() {
            inner.driver = Some(driver.clone());
        }
        DriverWork { next_deadline: inner.next_deadline, is_closed: inner.is_closed }
    }

    /// Resolves the oldest pending command. Returns `false` if there is none.
    pub(super) fn resolve(&self, answer: Value) -> bool {
        let mut inner = self.inner();
        let reply = inner.pending.pop_front();
        if inner.pending.is_empty() && inner.pending.capacity() > PENDING_KEPT_MAX {
            inner.pending.shrink_to(PENDING_KEPT_MAX);
        }
        drop(inner);
        let is_expected = reply.is_some();
        if let Some(sender) = reply.and_then(|reply| reply.sender) {
            // The caller may have given up.
            let _ = sender.send(Ok(answer));
        }
        is_expected
    }

    /// Fails all commands whose deadline has passed. Returns the next deadline.
    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut inner = self.inner();
        let mut next_deadline = None;
        for reply in &mut inner.pending {
            if reply.deadline > now {
                if reply.sender.is_some() {
                    next_deadline = Some(
                        next_deadline
                            .map_or(reply.deadline, |next_deadline: Instant| next_deadline.min(reply.deadline)),
                    );
                }
            } else if let Some(sender) = reply.sender.take() {
                let _ = sender.send(Err(Error::TimedOut));
            }
        }
        inner.next_deadline = next_deadline;
        next_deadline
    }

    /// Fails all pending commands and all later ones.
    pub(super) fn fail(&self, reason: String) {
        let mut inner = self.inner();
        let pending = std::mem::take(&mut inner.pending);
        inner.outgoing = Vec::new();
        inner.failure = Some(reason.clone());
        drop(inner);
        for sender in pending.into_iter().filter_map(|reply| reply.sender) {
            let _ = sender.send(Err(Error::ConnectionLost(reason.clone())));
        }
    }

    /// Closes the queue, and wakes the driver, which ends the connection.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.is_closed = true;
        let driver = inner.driver.take();
        drop(inner);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Each locked section leaves valid data, even if it panics.
    fn inner(&self) -> MutexGuard<'_, QueueInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[test]
    fn pending_limit_counts_expired_commands_until_their_reply() {
        let queue = CommandQueue::default();
        let first = queue.push(["PING"].into_iter(), soon()).unwrap();
        for _ in 1..PENDING_MAX {
            queue.push(["PING"].into_iter(), soon()).unwrap();
        }
        assert!(matches!(queue.push(["PING"].into_iter(), soon()), Err(Error::QueueFull)));
        assert_eq!(queue.expire(soon()), None);
        assert!(matches!(first.blocking_recv(), Ok(Err(Error::TimedOut))));
        assert!(matches!(queue.push(["PING"].into_iter(), soon()), Err(Error::QueueFull)));
        for _ in 0..PENDING_MAX {
            assert!(queue.resolve(Value::Other));
        }
        assert!(!queue.resolve(Value::Other));
        assert!(queue.inner().pending.capacity() <= PENDING_KEPT_MAX);
        assert!(queue.push(["PING"].into_iter(), soon()).is_ok());
    }

    #[test]
    fn outgoing_bytes_are_limited_and_buffers_shrink() {
        let queue = CommandQueue::default();
        let half = "x".repeat(OUTGOING_BYTES_MAX / 2);
        queue.push([&*half].into_iter(), soon()).unwrap();
        assert!(matches!(queue.push([&*half].into_iter(), soon()), Err(Error::QueueFull)));
        let mut sent = Vec::new();
        queue.take(&mut sent, Waker::noop());
        assert!(sent.len() > half.len());
        assert!(queue.push([&*half].into_iter(), soon()).is_ok());
        for _ in 0..3 {
            sent.clear();
            queue.take(&mut sent, Waker::noop());
        }
        sent.clear();
        queue.take(&mut sent, Waker::noop());
        assert!(sent.capacity() <= BUFFER_KEPT_MAX && queue.inner().outgoing.capacity() <= BUFFER_KEPT_MAX);
    }

    #[test]
    fn earliest_deadline_is_tracked_in_any_order() {
        let queue = CommandQueue::default();
        let (early, late) = (soon(), soon() + Duration::from_secs(9));
        let waiting = [late, early, late].map(|deadline| queue.push(["PING"].into_iter(), deadline).unwrap());
        assert_eq!(queue.take(&mut Vec::new(), Waker::noop()).next_deadline, Some(early));
        assert_eq!(queue.expire(early), Some(late));
        for text in ["a", "b", "c"] {
            queue.resolve(Value::Text(text.into()));
        }
        let answers = waiting.map(|receiver| receiver.blocking_recv().unwrap());
        let text = |text: &str| Value::Text(text.into());
        assert!(matches!(&answers[0], Ok(answer) if *answer == text("a")));
        assert!(matches!(&answers[1], Err(Error::TimedOut)));
        assert!(matches!(&answers[2], Ok(answer) if *answer == text("c")));
    }
}
