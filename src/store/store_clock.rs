use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::clock_sample::{ClockJump, ClockSample};

/// A server's copy of a store's clock.
pub(super) struct StoreClock {
    created_at: Instant,
    /// The store's clock minus the time since `created_at`; 0 before the first sample. Atomic,
    /// since every request reads it.
    offset_us: AtomicU64,
    /// The last sample, on any connection: the clock may jump between two connections.
    last_sample: Mutex<Option<ClockSample>>,
}

impl Default for StoreClock {
    fn default() -> Self {
        Self { created_at: Instant::now(), offset_us: AtomicU64::new(0), last_sample: Mutex::default() }
    }
}

impl StoreClock {
    /// The store's time, late by at most the delay of one reply: the clock counts from the
    /// reply's arrival.
    pub(super) fn now_us(&self) -> Option<u64> {
        match self.offset_us.load(Ordering::Relaxed) {
            0 => None,
            offset_us => Some(offset_us + self.elapsed_us()),
        }
    }

    /// The jump of the clock since the last sample, if any.
    pub(super) fn jump(&self, sample: &ClockSample, jump_max: Duration) -> Option<ClockJump> {
        let before = *self.last_sample.lock().unwrap_or_else(PoisonError::into_inner);
        before.and_then(|before| sample.jump(&before, jump_max))
    }

    /// Records the store's time. After a jump the caller must have closed grants first: until
    /// this call, commands carry deadlines by the old time.
    pub(super) fn record(&self, sample: ClockSample) {
        *self.last_sample.lock().unwrap_or_else(PoisonError::into_inner) = Some(sample);
        let offset_us = (sample.time_us + sample.age_us()).saturating_sub(self.elapsed_us());
        self.offset_us.store(offset_us, Ordering::Relaxed);
    }

    /// Drops the last sample, as earlier versions did with every new connection.
    #[cfg(feature = "simulation")]
    pub(super) fn forget(&self) {
        *self.last_sample.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn elapsed_us(&self) -> u64 {
        self.created_at.elapsed().as_micros() as u64
    }
}
