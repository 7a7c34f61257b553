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

use crate::locks::requests::LockKey;

/// The requests that wait in this server, and one watch for each queue that has any of them.
pub(in crate::locks) struct WaitRegistry {
    permits: Arc<Semaphore>,
    registered: Mutex<Registered>,
}

#[derive(Default)]
struct Registered {
    /// By the text of the attempt, as scripts publish it.
    waiters: HashMap<Arc<str>, Arc<RegisteredWaiter>, Hashing>,
    watches: HashMap<LockKey, (Arc<QueueWatch>, Attempts), Hashing>,
}

type Attempts = HashSet<Arc<str>, Hashing>;

/// Deterministic in simulations: the iteration order decides which waiter wakes first.
#[cfg(not(feature = "simulation"))]
type Hashing = std::hash::RandomState;
#[cfg(feature = "simulation")]
type Hashing = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

struct RegisteredWaiter {
    watch: Arc<QueueWatch>,
    woken: Notify,
}

/// Schedules the polls of one queue in which requests of this server wait.
pub(in crate::locks) struct QueueWatch {
    pub(in crate::locks) lock: LockKey,
    /// The time of the next poll; `None` after the last waiter left.
    next_poll: Mutex<Option<Instant>>,
    changed: Notify,
}

/// A waiting request's registration in this server. Dropping it unregisters the request.
pub(in crate::locks) struct WaitSlot {
    registry: Arc<WaitRegistry>,
    waiter: Arc<RegisteredWaiter>,
    attempt: Arc<str>,
    _permit: OwnedSemaphorePermit,
}

impl WaitRegistry {
    pub(in crate::locks) fn new(permits: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { permits, registered: Mutex::default() })
    }

    /// Registers an attempt, unless the limit is reached. Also returns the queue's watch if it
    /// is new: the caller must poll the queue from now on.
    pub(in crate::locks) fn take(
        self: &Arc<Self>,
        lock: &LockKey,
        attempt: &str,
    ) -> Option<(WaitSlot, Option<Arc<QueueWatch>>)> {
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        let attempt: Arc<str> = attempt.into();
        let mut registered = self.registered();
        let mut new_watch = None;
        let (watch, attempts) = registered.watches.entry(lock.clone()).or_insert_with(|| {
            let watch = Arc::new(QueueWatch::new(lock.clone()));
            new_watch = Some(watch.clone());
            (watch, Attempts::default())
        });
        attempts.insert(attempt.clone());
        let waiter = Arc::new(RegisteredWaiter { watch: watch.clone(), woken: Notify::new() });
        registered.waiters.insert(attempt.clone(), waiter.clone());
        drop(registered);
        gauge!("lockable_waiters").increment(1);
        Some((WaitSlot { registry: self.clone(), waiter, attempt, _permit: permit }, new_watch))
    }

    /// Whether a request of this server waits for a lock.
    pub(in crate::locks) fn has_waiters(&self, lock: &LockKey) -> bool {
        self.registered().watches.contains_key(lock)
    }

    /// Wakes the request with this attempt, so that it tries to claim the lock.
    pub(in crate::locks) fn wake(&self, attempt: &str) {
        if let Some(waiter) = self.registered().waiters.get(attempt) {
            waiter.woken.notify_one();
        }
    }

    /// Schedules an immediate poll of the queue in which this attempt waits.
    pub(in crate::locks) fn poll_queue_of(&self, attempt: &str) {
        if let Some(waiter) = self.registered().waiters.get(attempt) {
            waiter.watch.poll_by(Instant::now());
        }
    }

    /// Wakes all requests that wait for the selected locks.
    pub(in crate::locks) fn wake_all(&self, is_selected: impl Fn(&LockKey) -> bool) {
        for waiter in self.registered().waiters.values().filter(|waiter| is_selected(&waiter.watch.lock)) {
            waiter.woken.notify_one();
        }
    }

    /// Wakes all of this server's requests for a lock if they are more than `counted`, the
    /// number that the store has.
    pub(in crate::locks) fn wake_uncounted(&self, lock: &LockKey, counted: usize) {
        let registered = self.registered();
        let Some((_, attempts)) = registered.watches.get(lock).filter(|(_, attempts)| attempts.len() > counted) else {
            return;
        };
        for waiter in attempts.iter().filter_map(|attempt| registered.waiters.get(attempt)) {
            waiter.woken.notify_one();
        }
    }

    fn registered(&self) -> MutexGuard<'_, Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitSlot {
    /// Waits until the request should try to claim the lock.
    pub(in crate::locks) async fn woken(&self) {
        self.waiter.woken.notified().await;
    }

    /// Schedules a poll of the queue for when the lock's lease expires.
    pub(in crate::locks) fn expect_expiry(&self, remaining: Duration) {
        self.waiter.watch.poll_by(Instant::now() + QueueWatch::just_after(remaining));
    }
}

impl Drop for WaitSlot {
    fn drop(&mut self) {
        gauge!("lockable_waiters").decrement(1);
        let mut registered = self.registry.registered();
        registered.waiters.remove(&self.attempt);
        let lock = &self.waiter.watch.lock;
        if let Some((_, attempts)) = registered.watches.get_mut(lock) {
            attempts.remove(&self.attempt);
            if attempts.is_empty() {
                registered.watches.remove(lock);
                self.waiter.watch.close();
            }
        }
    }
}

impl QueueWatch {
    /// The longest time between two polls: shorter than the time that a waiter has to claim
    /// the lock (`lua/queue.lua`).
    pub(in crate::locks) const POLL_INTERVAL: Duration = Duration::from_secs(2);

    fn new(lock: LockKey) -> Self {
        let next_poll = Mutex::new(Some(Instant::now() + Self::POLL_INTERVAL));
        Self { lock, next_poll, changed: Notify::new() }
    }

    /// The delay of a poll that finds a lease with this much left expired.
    pub(in crate::locks) fn just_after(remaining: Duration) -> Duration {
        // Redis drops a key in the millisecond after the one at which it expires.
        (remaining + Duration::from_millis(1)).min(Self::POLL_INTERVAL)
    }

    /// Schedules a poll at `time`, unless an earlier one is scheduled.
    pub(in crate::locks) fn poll_by(&self, time: Instant) {
        let mut next = self.next_poll();
        if next.is_some_and(|next| time < next) {
            *next = Some(time);
            self.changed.notify_one();
        }
    }

    /// Waits until the next poll is due. Returns `false` after the last waiter left.
    pub(in crate::locks) async fn wait_until_due(&self) -> bool {
        loop {
            let Some(next) = *self.next_poll() else { return false };
            tokio::select! {
                // A fixed order keeps simulations deterministic.
                biased;
                () = tokio::time::sleep_until(next) => {}
                () = self.changed.notified() => continue,
            }
            // Reset before the poll: a message during it must schedule the next one earlier.
            if let Some(next) = &mut *self.next_poll() {
                *next = Instant::now() + Self::POLL_INTERVAL;
            }
            return true;
        }
    }

    fn close(&self) {
        *self.next_poll() = None;
        self.changed.notify_one();
    }

    fn next_poll(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next_poll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
