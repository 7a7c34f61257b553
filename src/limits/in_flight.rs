use std::sync::atomic::{AtomicU32, Ordering};

/// Limits the number of requests in flight. A counter is enough, because no caller waits for a permit.
pub struct InFlightLimit {
    count: AtomicU32,
    max: u32,
}

impl InFlightLimit {
    pub fn new(max: u32) -> Self {
        Self { count: AtomicU32::new(0), max }
    }

    /// Acquires a permit; returns `false` at the limit.
    pub fn try_acquire(&self) -> bool {
        let is_free = self.count.fetch_add(1, Ordering::Relaxed) < self.max;
        if !is_free {
            self.release();
        }
        is_free
    }

    /// Releases an acquired permit.
    pub fn release(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acquire_fails_at_the_limit_and_succeeds_after_a_release() {
        let limit = InFlightLimit::new(2);
        assert_eq!([(); 4].map(|()| limit.try_acquire()), [true, true, false, false]);
        limit.release();
        assert_eq!([limit.try_acquire(), limit.try_acquire()], [true, false]);
    }
}
