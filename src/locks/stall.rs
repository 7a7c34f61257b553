//! A server that stood still (a paused container, a machine short of processors) finds
//! requests in its sockets that were sent long ago. Their clients may have gone on:
//! what they confirmed elsewhere since must not be undone now. Such requests are
//! refused; their clients, if they still wait, retry.
//!
//! A machine that sleeps, with all of its clocks, needs no guard: its idea of the
//! store's time lags behind, and the store takes its commands for late.

use std::{
    sync::{
        Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::{Locks, Parts};
use crate::mends::{self, Mend};

/// Knows when this process stood still. Inactive until something ticks.
pub(super) struct StallGuard {
    begun: Instant,
    /// The last tick, in milliseconds since it begun; 0 before the first.
    ticked_ms: AtomicU64,
    /// Until when requests may be old, likewise.
    suspect_until_ms: AtomicU64,
}

impl Default for StallGuard {
    fn default() -> Self {
        Self { begun: Instant::now(), ticked_ms: AtomicU64::new(0), suspect_until_ms: AtomicU64::new(0) }
    }
}

impl StallGuard {
    const TICK: Duration = Duration::from_millis(50);
    /// Shorter pauses are not noticed: a busy machine has them.
    const STALL_MS: u64 = 1000;
    /// In this time a server has read what was in its sockets when it went on.
    const GRACE_MS: u64 = 1000;

    /// Whether a request that is handled now may have been sent before a stall.
    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        let ticked_ms = self.ticked_ms.load(Ordering::Relaxed);
        if ticked_ms == 0 || !mends::is_on(Mend::StallNoticed) {
            return false;
        }
        let now_ms = self.ms(now);
        // Whoever runs first after a stall notices it: a request, or the ticker.
        if now_ms > ticked_ms + Self::STALL_MS {
            self.suspect_until_ms.fetch_max(now_ms + Self::GRACE_MS, Ordering::Relaxed);
            return true;
        }
        now_ms < self.suspect_until_ms.load(Ordering::Relaxed)
    }

    fn tick(&self, now: Instant) {
        let now_ms = self.ms(now).max(1);
        let ticked_ms = self.ticked_ms.load(Ordering::Relaxed);
        if ticked_ms != 0 && now_ms > ticked_ms + Self::STALL_MS {
            self.suspect_until_ms.fetch_max(now_ms + Self::GRACE_MS, Ordering::Relaxed);
            tracing::warn!(milliseconds = now_ms - ticked_ms, "this process stood still; old requests are refused");
        }
        self.ticked_ms.store(now_ms, Ordering::Relaxed);
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_millis() as u64
    }
}

impl Locks {
    /// Ticks on a thread of its own, which a busy runtime does not hold up, for as long
    /// as there are locks.
    pub(super) fn start_ticking(&self) {
        let parts = std::sync::Arc::downgrade(&self.0);
        // There all processes share a thread, and each has to stand still by itself.
        #[cfg(feature = "simulation")]
        if let crate::store::Store::Simulated(simulated) = &self.store {
            tokio::spawn(simulated.process().run(simulation::tick_while_there(parts)));
            return;
        }
        let ticking = thread::Builder::new().name("stall-guard".into()).spawn(move || tick_while_there(&parts));
        if let Err(error) = ticking {
            tracing::error!(%error, "pauses of this process will not be noticed");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this thread does nothing else")]
fn tick_while_there(parts: &Weak<Parts>) {
    while let Some(parts) = parts.upgrade() {
        parts.stall_guard.tick(Instant::now());
        drop(parts);
        thread::sleep(StallGuard::TICK);
    }
}

#[cfg(feature = "simulation")]
mod simulation {
    use super::{Duration, Instant, Parts, Weak};

    /// A tick is dear there; with this one shorter pauses are noticed, too.
    const TICK: Duration = Duration::from_millis(250);

    pub(super) async fn tick_while_there(parts: Weak<Parts>) {
        while let Some(parts) = parts.upgrade() {
            parts.stall_guard.tick(Instant::now());
            drop(parts);
            tokio::time::sleep(TICK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_suspect_after_a_pause_for_a_while() {
        let guard = StallGuard::default();
        let at = |ms| guard.begun + Duration::from_millis(ms);
        assert!(!guard.is_suspect(at(9000)), "nothing ticks");
        guard.tick(at(1));
        guard.tick(at(900));
        assert!(!guard.is_suspect(at(1900)), "not more than is allowed");
        // A request runs first.
        assert!(guard.is_suspect(at(1901)) && guard.is_suspect(at(2100)));
        guard.tick(at(2101));
        assert!(guard.is_suspect(at(2110)) && guard.is_suspect(at(3100)) && !guard.is_suspect(at(3101)));
        // The ticker runs first.
        guard.tick(at(4000));
        assert!(guard.is_suspect(at(4001)) && !guard.is_suspect(at(5000)));
    }
}
