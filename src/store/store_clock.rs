use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::clock_sample::{Leap, Reading};

/// What a server knows of a store's clock.
pub(super) struct StoreClock {
    begun: Instant,
    /// By how many microseconds it is ahead of one in this process, as it was when its word
    /// was heard; nothing before. Every request asks for it, so it has no lock.
    ahead_us: AtomicU64,
    /// What it said last, on whichever connection: one that leaps while there is none has
    /// leapt all the same.
    reading: Mutex<Option<Reading>>,
}

impl Default for StoreClock {
    fn default() -> Self {
        Self { begun: Instant::now(), ahead_us: AtomicU64::new(0), reading: Mutex::default() }
    }
}

impl StoreClock {
    /// The store's time, at most the time of an answer behind: counted from when its word
    /// was heard, as if it had been spoken only then.
    pub(super) fn now_us(&self) -> Option<u64> {
        match self.ahead_us.load(Ordering::Relaxed) {
            0 => None,
            ahead_us => Some(ahead_us + self.passed_us()),
        }
    }

    /// The leap of the clock since it was read last, if it was set.
    pub(super) fn leap(&self, reading: &Reading, leap_max: Duration) -> Option<Leap> {
        let before = *self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        before.and_then(|before| reading.leap(&before, leap_max))
    }

    /// Takes note of the store's time. After a leap, grants must have been closed before:
    /// until then commands are late by the time that is known here.
    pub(super) fn hear(&self, reading: Reading) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
        let ahead_us = (reading.said_us + reading.age_us()).saturating_sub(self.passed_us());
        self.ahead_us.store(ahead_us, Ordering::Relaxed);
    }

    /// Forgets what it said last, as servers once did with every new connection.
    #[cfg(feature = "simulation")]
    pub(super) fn forget(&self) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn passed_us(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }
}
