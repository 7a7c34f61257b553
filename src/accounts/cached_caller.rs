use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Caller;

/// What is remembered of a token.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) caller: Arc<Caller>,
    /// The directory's generation in which reading it began.
    pub(super) generation: u64,
    read_at: Instant,
    is_renewing: Arc<AtomicBool>,
}

impl Known {
    /// How old a token that is in use may become before it is read anew beside that:
    /// nobody who uses it is to wait until it is.
    const RENEWED: Duration = Duration::from_secs(3);

    pub(super) fn new(caller: Arc<Caller>, generation: u64) -> Self {
        Self { caller, generation, read_at: Instant::now(), is_renewing: Arc::default() }
    }

    /// Whether it is to be read anew; says so to one who asks, and no other.
    pub(super) fn is_due(&self) -> bool {
        self.read_at.elapsed() >= Self::RENEWED && !self.is_renewing.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::cache::tests::caller;

    #[tokio::test(start_paused = true)]
    async fn one_is_told_that_it_is_due() {
        let known = Known::new(Arc::new(caller()), 1);
        assert!(!known.is_due());
        tokio::time::advance(Known::RENEWED).await;
        let same = known.clone();
        assert!(same.is_due());
        assert!(!known.is_due() && !same.is_due());
    }
}
