use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::shards::{LOCK_TAG, Shard};

/// What people are told of the grants of a shard. A node of a cluster has many
/// shards: what happens to all of them at once is said in one line.
pub(super) enum News {
    Lost { reason: String },
    Restored { until: Instant },
    Open,
}

/// What happened to so many shards within a moment.
static GATHERED: Mutex<Vec<(News, usize)>> = Mutex::new(Vec::new());

impl News {
    const GATHERED_FOR: Duration = Duration::from_secs(1);

    /// Tells of one shard: soon, together with others, or at once where it is the
    /// only one.
    pub(super) fn tell(self, tag: &str) {
        if tag == LOCK_TAG {
            return self.say(None);
        }
        let mut gathered = GATHERED.lock().unwrap_or_else(PoisonError::into_inner);
        if gathered.is_empty() {
            tokio::spawn(async {
                sleep(Self::GATHERED_FOR).await;
                let gathered = std::mem::take(&mut *GATHERED.lock().unwrap_or_else(PoisonError::into_inner));
                for (news, shards) in gathered {
                    news.say(Some(shards));
                }
            });
        }
        match gathered.iter_mut().find(|(news, _)| news.is_like(&self)) {
            Some((news, shards)) => {
                *news = self;
                *shards += 1;
            }
            None => gathered.push((self, 1)),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lost { reason }, Self::Lost { reason: other }) => reason == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    fn say(self, shards: Option<usize>) {
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
