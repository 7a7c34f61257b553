//! Detects stalls of this process. After a stall (a paused container, a machine short of
//! processors) a server finds old requests in its sockets. Their clients may have continued
//! with another server, and an old request must not undo what they confirmed there. The
//! server refuses such requests; clients that still wait retry.
//!
//! A suspended machine, whose clocks stop too, needs no guard: its estimate of the store's
//! time lags behind, and the store treats its commands as late.

use std::{
    sync::{
        Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use super::{Locks, LocksInner};
use crate::safeguards::{self, Safeguard};

/// Records when this process stalled. Inactive before the first tick.
pub(super) struct StallGuard {
    begun: Instant,
    /// The time of the last tick, in milliseconds since `begun`; 0 before the first.
    ticked_ms: AtomicU64,
    /// Requests may be old until this time, in milliseconds since `begun`.
    suspect_until_ms: AtomicU64,
}

impl Default for StallGuard {
    fn default() -> Self {
        Self { begun: Instant::now(), ticked_ms: AtomicU64::new(0), suspect_until_ms: AtomicU64::new(0) }
    }
}

impl StallGuard {
    const TICK: Duration = Duration::from_millis(50);
    /// Shorter pauses do not count: a busy machine has them.
    const STALL_MS: u64 = 1000;
    /// Within this time after a stall, a server has read all old requests from its sockets.
    const GRACE_MS: u64 = 1000;

    /// Whether a request that is handled now may have been sent before a stall.
    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        let ticked_ms = self.ticked_ms.load(Ordering::Relaxed);
        if ticked_ms == 0 || !safeguards::is_on(Safeguard::StallDetected) {
            return false;
        }
        let now_ms = self.ms(now);
        // After a stall, a request may run before the ticker.
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
            tracing::warn!(
                milliseconds = now_ms - ticked_ms,
                "this process stalled; refusing requests that may be old"
            );
        }
        self.ticked_ms.store(now_ms, Ordering::Relaxed);
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_millis() as u64
    }
}

impl Locks {
    /// Starts a thread that ticks until all clones of the locks are dropped. A task would be
    /// delayed by a busy runtime.
    pub(super) fn start_ticking(&self) {
        let parts = std::sync::Arc::downgrade(&self.0);
        // Simulated processes share a thread, and must stall independently.
        #[cfg(feature = "simulation")]
        if let crate::store::Store::Simulated(simulated) = &self.store {
            tokio::spawn(simulated.process().run(simulation::tick_until_dropped(parts)));
            return;
        }
        let ticking = thread::Builder::new().name("stall-guard".into()).spawn(move || tick_until_dropped(&parts));
        if let Err(error) = ticking {
            tracing::error!(%error, "cannot start the stall guard; stalls of this process will not be detected");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a dedicated thread may block")]
fn tick_until_dropped(parts: &Weak<LocksInner>) {
    while let Some(parts) = parts.upgrade() {
        parts.stall_guard.tick(Instant::now());
        drop(parts);
        thread::sleep(StallGuard::TICK);
    }
}

#[cfg(feature = "simulation")]
mod simulation {
    use super::{Duration, Instant, LocksInner, Weak};

    /// A simulated tick is expensive; this interval still detects every stall.
    const TICK: Duration = Duration::from_millis(250);

    pub(super) async fn tick_until_dropped(parts: Weak<LocksInner>) {
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
    fn requests_are_suspect_for_a_second_after_a_stall() {
        let guard = StallGuard::default();
        let at = |ms| guard.begun + Duration::from_millis(ms);
        assert!(!guard.is_suspect(at(9000)), "no ticks yet");
        guard.tick(at(1));
        guard.tick(at(900));
        assert!(!guard.is_suspect(at(1900)), "a pause of just a second");
        // A request runs before the ticker.
        assert!(guard.is_suspect(at(1901)) && guard.is_suspect(at(2100)));
        guard.tick(at(2101));
        assert!(guard.is_suspect(at(2110)) && guard.is_suspect(at(3100)) && !guard.is_suspect(at(3101)));
        // The ticker runs before a request.
        guard.tick(at(4000));
        assert!(guard.is_suspect(at(4001)) && !guard.is_suspect(at(5000)));
    }
}
