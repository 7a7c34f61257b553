use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::shards::Shard;

/// What people are told of the grants of a shard.
pub(super) enum News {
    Lost { reason: String },
    Restored { until: Instant },
    Open,
}

/// What happened to so many shards within a moment. A node of a cluster has many:
/// what happens to all of them at once is said in one line.
#[derive(Default)]
pub(super) struct Gathered(Mutex<Vec<(News, usize)>>);

impl Gathered {
    const GATHERED_FOR: Duration = Duration::from_secs(1);

    /// Has it said of one shard, soon and together with others.
    pub(super) fn add(self: &Arc<Self>, news: News) {
        let is_first = self.gather(news);
        // Not while it is open: a runtime that ends drops at once what it is given,
        // which says everything then.
        if is_first {
            let saying = Saying(self.clone());
            tokio::spawn(async move {
                let _saying = saying;
                sleep(Self::GATHERED_FOR).await;
            });
        }
    }

    /// Returns whether nothing was gathered before.
    fn gather(&self, news: News) -> bool {
        let mut gathered = self.open();
        let is_first = gathered.is_empty();
        match gathered.iter_mut().find(|(other, _)| other.is_like(&news)) {
            Some((other, shards)) => {
                *other = news;
                *shards += 1;
            }
            None => gathered.push((news, 1)),
        }
        is_first
    }

    fn open(&self) -> MutexGuard<'_, Vec<(News, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says what was gathered when it is dropped: in time, or earlier when the server
/// stops before.
struct Saying(Arc<Gathered>);

impl Drop for Saying {
    fn drop(&mut self) {
        let gathered = std::mem::take(&mut *self.0.open());
        for (news, shards) in gathered {
            news.say(Some(shards));
        }
    }
}

impl News {
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lost { reason }, Self::Lost { reason: other }) => reason == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// Says it of so many shards, or of the only one.
    pub(super) fn say(self, shards: Option<usize>) {
        let of = shards.map(|_| Shard::SPREAD);
        match self {
            Self::Lost { reason } => {
                tracing::warn!(shards, of, reason, "grants may have been forgotten, so nothing is granted for now");
            }
            Self::Restored { until } => {
                let seconds = until.saturating_duration_since(Instant::now()).as_secs_f64();
                tracing::info!(
                    shards,
                    of,
                    seconds,
                    "long leases are back; what was forgotten of others will have lapsed"
                );
            }
            Self::Open => tracing::info!(shards, of, "locks are granted again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    /// Has news when it is dropped.
    struct Late(Arc<Gathered>);

    impl Drop for Late {
        fn drop(&mut self) {
            self.0.add(News::Open);
        }
    }

    #[test]
    fn what_comes_while_the_server_ends_is_said_and_holds_nobody_up() {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let gathered = Arc::<Gathered>::default();
        let late = Late(gathered.clone());
        runtime.spawn(async move {
            let _late = late;
            std::future::pending::<()>().await;
        });
        drop(runtime);
        assert!(gathered.open().is_empty());
    }

    #[test]
    fn what_is_gathered_is_said_in_time_and_when_the_server_stops_before() {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let gathered = Arc::<Gathered>::default();
        let unsaid = || gathered.open().iter().map(|(_, shards)| *shards).collect::<Vec<_>>();
        let add = |reason: &str| {
            (0..7).for_each(|_| gathered.add(News::Lost { reason: reason.into() }));
            gathered.add(News::Open);
        };
        runtime.block_on(async {
            add("it was emptied");
            assert_eq!(unsaid(), [7, 1]);
            sleep(Gathered::GATHERED_FOR * 2).await;
            assert!(unsaid().is_empty());
            add("it failed over");
        });
        assert_eq!(unsaid(), [7, 1]);
        drop(runtime);
        assert!(unsaid().is_empty());
    }
}
