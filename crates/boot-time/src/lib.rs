//! Time on a clock that cannot be set.

use std::{ops, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// How often a timer reads the clock again: the runtime's timers stop while the machine sleeps, but
/// leases continue to run.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
/// On other systems, this clock includes the time that the machine sleeps.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

/// A time on a clock that cannot be set and that includes the time that the machine sleeps. All
/// processes of the machine share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    pub fn now() -> Self {
        #[cfg(feature = "simulation")]
        if let Some(origin) = SIMULATED.get() {
            return Self(origin.elapsed());
        }
        // Fails only for clocks that the system lacks.
        Self(clock_gettime(CLOCK).map_or(Duration::ZERO, Into::into))
    }

    /// The time until this time; zero after it.
    pub fn remaining(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }

    /// The time since this time; zero before it.
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    /// The time from `earlier` to this time; zero if this time is earlier.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Nanoseconds since the machine's start, for another process.
    pub fn as_nanos(self) -> u64 {
        self.0.as_nanos() as u64
    }

    pub fn from_nanos(nanos: u64) -> Self {
        Self(Duration::from_nanos(nanos))
    }

    /// Waits until this time. If the time passes while the machine sleeps, the wait ends at most 0.1 s
    /// after the wake-up.
    pub async fn reached(self) {
        loop {
            let remaining = self.remaining();
            if remaining.is_zero() {
                return;
            }
            tokio::time::sleep(remaining.min(POLL_INTERVAL)).await;
        }
    }
}

#[cfg(feature = "simulation")]
thread_local! {
    static SIMULATED: std::cell::Cell<Option<tokio::time::Instant>> = const { std::cell::Cell::new(None) };
}

#[cfg(feature = "simulation")]
impl BootTime {
    /// Makes this thread count from `origin`, on the runtime's clock.
    pub fn simulate_from(origin: Option<tokio::time::Instant>) {
        SIMULATED.set(origin);
    }
}

impl ops::Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl ops::Sub<Duration> for BootTime {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}
