use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use tokio_util::sync::CancellationToken;

/// Something that all connections are told once. Waiting for it costs nothing:
/// whoever polls a `CancellationToken` locks a list that all of them share, and a
/// connection is polled several times for each request.
#[derive(Clone, Default)]
pub(super) struct Notice(Arc<Told>);

#[derive(Default)]
struct Told {
    is_given: AtomicBool,
    token: CancellationToken,
}

impl Notice {
    pub(super) fn give(&self) {
        // Before those who wait are woken, so that they see it.
        self.0.is_given.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    /// Polls the future until it is ready, or until the signal is given: then
    /// returns `None`. It must be polled by one task alone, since only that one is
    /// woken.
    pub(super) async fn unless<F: Future>(&self, future: F) -> Option<F::Output> {
        let (mut future, mut told) = (pin!(future), pin!(self.0.token.cancelled()));
        let mut is_waiting = false;
        poll_fn(|cx| {
            if !is_waiting || self.0.is_given.load(Ordering::Acquire) {
                is_waiting = true;
                if told.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn what_is_ready_is_returned_unless_the_signal_was_given() {
        let signal = Notice::default();
        assert_eq!(signal.unless(ready(1)).await, Some(1));
        signal.give();
        assert_eq!(signal.unless(ready(1)).await, None);
    }

    #[tokio::test]
    async fn those_who_wait_are_told() {
        let signal = Notice::default();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let signal = signal.clone();
                tokio::spawn(async move { signal.unless(pending::<()>()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        signal.give();
        for told in waiting {
            assert_eq!(told.await.unwrap(), None);
        }
    }
}
