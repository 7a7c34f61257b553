//! Time on a clock that nobody can set.

use std::{ops, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// How long a timer may sleep before it looks at the clock again: timers stand
/// still while the machine sleeps, and leases do not.
const TICK: Duration = Duration::from_millis(100);

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
/// Elsewhere it is this one that goes on while the machine sleeps.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

/// A time on a clock that nobody can set, and that goes on while the machine
/// sleeps. The same in all processes of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    pub fn now() -> Self {
        #[cfg(feature = "simulation")]
        if let Some(origin) = SIMULATED.get() {
            return Self(origin.elapsed());
        }
        // It fails only for clocks that the system does not have.
        Self(clock_gettime(CLOCK).map_or(Duration::ZERO, Into::into))
    }

    /// How long it is until then; nothing once it has passed.
    pub fn rest(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }

    /// How long ago it was; nothing while it is to come.
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    /// How long after `earlier` it is; nothing if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Nanoseconds since the machine was started, for another process.
    pub fn as_nanos(self) -> u64 {
        self.0.as_nanos() as u64
    }

    pub fn from_nanos(nanos: u64) -> Self {
        Self(Duration::from_nanos(nanos))
    }

    /// Is ready at this time, or at once when the machine wakes up after it.
    pub async fn reached(self) {
        loop {
            let rest = self.rest();
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(rest.min(TICK)).await;
        }
    }
}

#[cfg(feature = "simulation")]
thread_local! {
    static SIMULATED: std::cell::Cell<Option<tokio::time::Instant>> = const { std::cell::Cell::new(None) };
}

#[cfg(feature = "simulation")]
impl BootTime {
    /// Has this thread's moments counted from there, on the runtime's clock.
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
