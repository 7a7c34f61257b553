use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::gauge;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::locks::requests::LockId;

/// The requests that wait in this server, each on a seat, and the lines they
/// stand in.
pub(in crate::locks) struct Waiters {
    seats: Arc<Semaphore>,
    seated: Mutex<Seated>,
}

#[derive(Default)]
struct Seated {
    /// By attempt, in the form in which scripts name it.
    waiters: HashMap<Arc<str>, Arc<Waiter>, Hashing>,
    lines: HashMap<LockId, (Arc<Line>, Attempts), Hashing>,
}

type Attempts = HashSet<Arc<str>, Hashing>;

/// Simulations must run the same each time, and so must whoever is woken first.
#[cfg(not(feature = "simulation"))]
type Hashing = std::hash::RandomState;
#[cfg(feature = "simulation")]
type Hashing = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

struct Waiter {
    line: Arc<Line>,
    woken: Notify,
}

/// A line in which requests of this server stand.
pub(in crate::locks) struct Line {
    pub(in crate::locks) lock: LockId,
    /// When to look after it next; `None` once nobody stands in it.
    next_look: Mutex<Option<Instant>>,
    changed: Notify,
}

/// A waiting request's lock key in this server. Dropping it gives it up.
pub(in crate::locks) struct Seat {
    waiters: Arc<Waiters>,
    waiter: Arc<Waiter>,
    attempt: Arc<str>,
    _permit: OwnedSemaphorePermit,
}

impl Waiters {
    pub(in crate::locks) fn new(seats: usize) -> Arc<Self> {
        let seats = Arc::new(Semaphore::new(seats.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { seats, seated: Mutex::default() })
    }

    /// Takes a seat for an attempt, if one is free. Also returns the line if
    /// nobody was in it yet: somebody has to look after it from now on.
    pub(in crate::locks) fn take(self: &Arc<Self>, lock: &LockId, attempt: &str) -> Option<(Seat, Option<Arc<Line>>)> {
        let permit = self.seats.clone().try_acquire_owned().ok()?;
        let attempt: Arc<str> = attempt.into();
        let mut seated = self.seated();
        let mut new_line = None;
        let (line, attempts) = seated.lines.entry(lock.clone()).or_insert_with(|| {
            let line = Arc::new(Line::new(lock.clone()));
            new_line = Some(line.clone());
            (line, Attempts::default())
        });
        attempts.insert(attempt.clone());
        let waiter = Arc::new(Waiter { line: line.clone(), woken: Notify::new() });
        seated.waiters.insert(attempt.clone(), waiter.clone());
        drop(seated);
        gauge!("lockable_waiters").increment(1);
        Some((Seat { waiters: self.clone(), waiter, attempt, _permit: permit }, new_line))
    }

    /// Whether a request of this server waits for a lock.
    pub(in crate::locks) fn has_line(&self, lock: &LockId) -> bool {
        self.seated().lines.contains_key(lock)
    }

    /// Has the request with this attempt ask how it stands.
    pub(in crate::locks) fn wake(&self, attempt: &str) {
        if let Some(waiter) = self.seated().waiters.get(attempt) {
            waiter.woken.notify_one();
        }
    }

    /// Has the line looked after at once in which this attempt stands.
    pub(in crate::locks) fn look(&self, attempt: &str) {
        if let Some(waiter) = self.seated().waiters.get(attempt) {
            waiter.line.look_by(Instant::now());
        }
    }

    /// Has all requests ask how they stand that wait for such locks.
    pub(in crate::locks) fn wake_all(&self, is_meant: impl Fn(&LockId) -> bool) {
        for waiter in self.seated().waiters.values().filter(|waiter| is_meant(&waiter.line.lock)) {
            waiter.woken.notify_one();
        }
    }

    /// Has all requests in a line ask, if there are more of them than `counted`.
    pub(in crate::locks) fn wake_line_beyond(&self, lock: &LockId, counted: usize) {
        let seated = self.seated();
        let Some((_, attempts)) = seated.lines.get(lock).filter(|(_, attempts)| attempts.len() > counted) else {
            return;
        };
        for waiter in attempts.iter().filter_map(|attempt| seated.waiters.get(attempt)) {
            waiter.woken.notify_one();
        }
    }

    fn seated(&self) -> MutexGuard<'_, Seated> {
        self.seated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Waits until there may be news.
    pub(in crate::locks) async fn woken(&self) {
        self.waiter.woken.notified().await;
    }

    /// Says when the lock lapses, as far as is known.
    pub(in crate::locks) fn expect_lapse(&self, rest: Duration) {
        self.waiter.line.look_by(Instant::now() + Line::just_after(rest));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        gauge!("lockable_waiters").decrement(1);
        let mut seated = self.waiters.seated();
        seated.waiters.remove(&self.attempt);
        let lock = &self.waiter.line.lock;
        if let Some((_, attempts)) = seated.lines.get_mut(lock) {
            attempts.remove(&self.attempt);
            if attempts.is_empty() {
                seated.lines.remove(lock);
                self.waiter.line.close();
            }
        }
    }
}

impl Line {
    /// How often a line is looked after, come what may: more than once in the
    /// time that a waiter has to collect (`lua/queue.lua`).
    pub(in crate::locks) const LOOK_INTERVAL: Duration = Duration::from_secs(2);

    fn new(lock: LockId) -> Self {
        let next_look = Mutex::new(Some(Instant::now() + Self::LOOK_INTERVAL));
        Self { lock, next_look, changed: Notify::new() }
    }

    /// When to look to find a lease lapsed that has so much left.
    pub(in crate::locks) fn just_after(rest: Duration) -> Duration {
        // Redis drops a key in the millisecond after the one at which it expires.
        (rest + Duration::from_millis(1)).min(Self::LOOK_INTERVAL)
    }

    /// Has it looked after at that time, or before.
    pub(in crate::locks) fn look_by(&self, time: Instant) {
        let mut next = self.next_look();
        if next.is_some_and(|next| time < next) {
            *next = Some(time);
            self.changed.notify_one();
        }
    }

    /// Waits until it is time to look. `false` when nobody stands in it any more.
    pub(in crate::locks) async fn is_due(&self) -> bool {
        loop {
            let Some(next) = *self.next_look() else { return false };
            tokio::select! {
                // In this order, for simulations that must run the same each time.
                biased;
                () = tokio::time::sleep_until(next) => {}
                () = self.changed.notified() => continue,
            }
            // What is heard while one looks makes the next look earlier again.
            if let Some(next) = &mut *self.next_look() {
                *next = Instant::now() + Self::LOOK_INTERVAL;
            }
            return true;
        }
    }

    fn close(&self) {
        *self.next_look() = None;
        self.changed.notify_one();
    }

    fn next_look(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next_look.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
