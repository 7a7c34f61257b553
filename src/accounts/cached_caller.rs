use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Caller;

/// A caller in memory.
#[derive(Clone)]
pub(super) struct CachedCaller {
    pub(super) caller: Arc<Caller>,
    /// The token cache's generation when the lookup began.
    pub(super) generation: u64,
    read_at: Instant,
    is_refreshing: Arc<AtomicBool>,
}

impl CachedCaller {
    /// Age after which a used entry is refreshed in the background, so that no request waits for
    /// it.
    const REFRESH_AFTER: Duration = Duration::from_secs(3);

    pub(super) fn new(caller: Arc<Caller>, generation: u64) -> Self {
        Self { caller, generation, read_at: Instant::now(), is_refreshing: Arc::default() }
    }

    /// Whether the entry needs a refresh. Returns true to one caller only.
    pub(super) fn claim_refresh(&self) -> bool {
        self.read_at.elapsed() >= Self::REFRESH_AFTER && !self.is_refreshing.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::cache::tests::caller;

    #[tokio::test(start_paused = true)]
    async fn one_caller_claims_the_refresh() {
        let cached = CachedCaller::new(Arc::new(caller()), 1);
        assert!(!cached.claim_refresh());
        tokio::time::advance(CachedCaller::REFRESH_AFTER).await;
        let same = cached.clone();
        assert!(same.claim_refresh());
        assert!(!cached.claim_refresh() && !same.claim_refresh());
    }
}
