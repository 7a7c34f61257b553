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

/// A one-time notification to all connections. A `CancellationToken` alone locks a list that all
/// connections share whenever it is polled, and a connection is polled several times per request.
#[derive(Clone, Default)]
pub(super) struct Notice(Arc<NoticeState>);

#[derive(Default)]
struct NoticeState {
    is_notified: AtomicBool,
    token: CancellationToken,
}

impl Notice {
    pub(super) fn notify(&self) {
        // Set before the waiting tasks wake up, so that they see it.
        self.0.is_notified.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    /// Polls the future until it is ready or until the notification, then returns `None`. Only one
    /// task may poll it: a notification wakes the last one only.
    pub(super) async fn run_until_notified<F: Future>(&self, future: F) -> Option<F::Output> {
        let (mut future, mut notified) = (pin!(future), pin!(self.0.token.cancelled()));
        let mut is_waiting = false;
        poll_fn(|cx| {
            if !is_waiting || self.0.is_notified.load(Ordering::Acquire) {
                is_waiting = true;
                if notified.as_mut().poll(cx).is_ready() {
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
    async fn ready_future_returns_its_output_until_notified() {
        let notice = Notice::default();
        assert_eq!(notice.run_until_notified(ready(1)).await, Some(1));
        notice.notify();
        assert_eq!(notice.run_until_notified(ready(1)).await, None);
    }

    #[tokio::test]
    async fn notification_ends_all_waiting_futures() {
        let notice = Notice::default();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let notice = notice.clone();
                tokio::spawn(async move { notice.run_until_notified(pending::<()>()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        notice.notify();
        for outcome in waiting {
            assert_eq!(outcome.await.unwrap(), None);
        }
    }
}
