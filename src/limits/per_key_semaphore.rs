use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// A semaphore per key, such as a client address. Callers beyond the permits wait in FIFO order: a
/// hundred jobs that start at once behind one address are delayed, not rejected.
pub struct PerKeySemaphore<K: Copy + Eq + Hash> {
    permits_per_key: usize,
    queue_max: usize,
    /// Contains only keys with a permit or a waiter.
    queues: Mutex<HashMap<K, KeyQueue>>,
}

struct KeyQueue {
    semaphore: Arc<Semaphore>,
    /// Permits and waiters of the key.
    users: usize,
}

/// A permit of one key; released on drop.
pub struct PerKeySemaphorePermit<K: Copy + Eq + Hash> {
    _permit: OwnedSemaphorePermit,
    _entry: QueueEntry<K>,
}

/// Why no permit was acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerKeyAcquireError {
    /// The queue of the key is full.
    QueueFull,
    /// No permit became free within [`PerKeySemaphore::WAIT_MAX`].
    TimedOut,
}

/// Counts one user of a key until it is dropped.
struct QueueEntry<K: Copy + Eq + Hash> {
    semaphore: Arc<PerKeySemaphore<K>>,
    key: K,
}

impl<K: Copy + Eq + Hash> PerKeySemaphore<K> {
    /// The longest wait for a permit. This wait and the lookup after it must fit into a request's timeout.
    pub const WAIT_MAX: Duration = Duration::from_secs(3);

    /// Allows each key `permits_per_key` permits, and `queue_max` permits and waiters together.
    pub fn new(permits_per_key: usize, queue_max: usize) -> Arc<Self> {
        Arc::new(Self { permits_per_key, queue_max, queues: Mutex::default() })
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// See [`PerKeyAcquireError`].
    pub async fn acquire(self: &Arc<Self>, key: impl Into<K>) -> Result<PerKeySemaphorePermit<K>, PerKeyAcquireError> {
        let (semaphore, entry) = self.enter(key.into()).ok_or(PerKeyAcquireError::QueueFull)?;
        match timeout(Self::WAIT_MAX, semaphore.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(PerKeySemaphorePermit { _permit: permit, _entry: entry }),
            Ok(Err(_)) | Err(_) => Err(PerKeyAcquireError::TimedOut),
        }
    }

    fn enter(self: &Arc<Self>, key: K) -> Option<(Arc<Semaphore>, QueueEntry<K>)> {
        let mut queues = self.queues();
        let new = || KeyQueue { semaphore: Arc::new(Semaphore::new(self.permits_per_key)), users: 0 };
        let queue = queues.entry(key).or_insert_with(new);
        if queue.users >= self.queue_max {
            return None;
        }
        queue.users += 1;
        Some((queue.semaphore.clone(), QueueEntry { semaphore: self.clone(), key }))
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<K, KeyQueue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Drop for QueueEntry<K> {
    fn drop(&mut self) {
        let mut queues = self.semaphore.queues();
        if let Some(queue) = queues.get_mut(&self.key) {
            queue.users -= 1;
            if queue.users == 0 {
                queues.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn acquire_waits_for_a_free_permit_until_it_times_out() {
        let semaphore = PerKeySemaphore::<char>::new(2, 10);
        let first = semaphore.acquire('a').await.unwrap();
        let second = semaphore.acquire('a').await.unwrap();
        let mut third = Box::pin(semaphore.acquire('a'));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(semaphore.acquire('b').now_or_never().is_some_and(|permit| permit.is_ok()), "another key");
        drop(first);
        let third = third.now_or_never().expect("the released permit").unwrap();

        let start = tokio::time::Instant::now();
        assert_eq!(semaphore.acquire('a').await.err(), Some(PerKeyAcquireError::TimedOut));
        assert_eq!(start.elapsed().as_secs(), PerKeySemaphore::<char>::WAIT_MAX.as_secs());
        drop((second, third));
        assert!(semaphore.queues().is_empty(), "keys without users are removed");
    }

    #[tokio::test(start_paused = true)]
    async fn acquire_fails_at_once_when_the_queue_is_full() {
        let semaphore = PerKeySemaphore::<char>::new(1, 10);
        let permit = semaphore.acquire('a').await.unwrap();
        let mut waiting = Box::pin(join_all((1..10).map(|_| semaphore.acquire('a'))));
        assert!(waiting.as_mut().now_or_never().is_none());
        let refused = semaphore.acquire('a').now_or_never().expect("no wait");
        assert_eq!(refused.err(), Some(PerKeyAcquireError::QueueFull));
        drop(waiting);
        drop(permit);
        assert!(semaphore.acquire('a').await.is_ok());
    }
}
