use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::shards::Shard;

/// A recovery event of a shard, for the log.
pub(super) enum RecoveryEvent {
    GrantsLost { reason: String },
    LeasesRestored { until: Instant },
    Opened,
}

/// Counts the shards of each recent event. One node of a cluster has many shards: the log
/// gets one line for an event of all of them.
#[derive(Default)]
pub(super) struct EventAggregator(Mutex<Vec<(RecoveryEvent, usize)>>);

impl EventAggregator {
    const WINDOW: Duration = Duration::from_secs(1);

    /// Adds the event of one shard. It is logged within [`WINDOW`](Self::WINDOW).
    pub(super) fn add(self: &Arc<Self>, event: RecoveryEvent) {
        let is_first = self.merge(event);
        // Spawn outside the lock: a runtime that shuts down drops the task at once, and its
        // drop takes the lock.
        if is_first {
            let flush = FlushOnDrop(self.clone());
            tokio::spawn(async move {
                let _flush = flush;
                sleep(Self::WINDOW).await;
            });
        }
    }

    /// Returns whether there were no events before.
    fn merge(&self, event: RecoveryEvent) -> bool {
        let mut events = self.lock();
        let is_first = events.is_empty();
        match events.iter_mut().find(|(other, _)| other.is_same_kind(&event)) {
            Some((other, shards)) => {
                *other = event;
                *shards += 1;
            }
            None => events.push((event, 1)),
        }
        is_first
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(RecoveryEvent, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs the collected events when it is dropped: at the end of the window, or at shutdown.
struct FlushOnDrop(Arc<EventAggregator>);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        let events = std::mem::take(&mut *self.0.lock());
        for (event, shards) in events {
            event.log(Some(shards));
        }
    }
}

impl RecoveryEvent {
    fn is_same_kind(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::GrantsLost { reason }, Self::GrantsLost { reason: other }) => reason == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// Logs the event for this number of shards, or for the only shard.
    pub(super) fn log(self, shards: Option<usize>) {
        let of = shards.map(|_| Shard::CLUSTER_COUNT);
        match self {
            Self::GrantsLost { reason } => {
                tracing::warn!(shards, of, reason, "grants may have been lost; no new grants until the recovery ends");
            }
            Self::LeasesRestored { until } => {
                let seconds = until.saturating_duration_since(Instant::now()).as_secs_f64();
                tracing::info!(
                    shards,
                    of,
                    seconds,
                    "long leases are restored; waiting until lost short leases have expired"
                );
            }
            Self::Opened => tracing::info!(shards, of, "the recovery has ended; locks are granted again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    /// Adds an event when it is dropped.
    struct AddOnDrop(Arc<EventAggregator>);

    impl Drop for AddOnDrop {
        fn drop(&mut self) {
            self.0.add(RecoveryEvent::Opened);
        }
    }

    #[test]
    fn event_added_during_runtime_shutdown_is_logged_without_deadlock() {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let events = Arc::<EventAggregator>::default();
        let add = AddOnDrop(events.clone());
        runtime.spawn(async move {
            let _add = add;
            std::future::pending::<()>().await;
        });
        drop(runtime);
        assert!(events.lock().is_empty());
    }

    #[test]
    fn events_are_logged_after_the_window_and_at_shutdown() {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let events = Arc::<EventAggregator>::default();
        let pending = || events.lock().iter().map(|(_, shards)| *shards).collect::<Vec<_>>();
        let add = |reason: &str| {
            (0..7).for_each(|_| events.add(RecoveryEvent::GrantsLost { reason: reason.into() }));
            events.add(RecoveryEvent::Opened);
        };
        runtime.block_on(async {
            add("the data is lost");
            assert_eq!(pending(), [7, 1]);
            sleep(EventAggregator::WINDOW * 2).await;
            assert!(pending().is_empty());
            add("another process has the data");
        });
        assert_eq!(pending(), [7, 1]);
        drop(runtime);
        assert!(pending().is_empty());
    }
}
