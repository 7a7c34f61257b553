use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Limits the number of permits that each key holds at once. Such permits are, for example, the
/// connections of an address or the live views of an account.
pub struct PerKeyLimit<K: Copy + Eq + Hash> {
    per_key_max: u32,
    counts: Mutex<HashMap<K, u32>>,
}

/// A permit of one key; released on drop.
pub struct PerKeyPermit<K: Copy + Eq + Hash> {
    limit: Arc<PerKeyLimit<K>>,
    key: K,
}

impl<K: Copy + Eq + Hash> PerKeyLimit<K> {
    pub fn new(per_key_max: u32) -> Arc<Self> {
        Arc::new(Self { per_key_max, counts: Mutex::default() })
    }

    /// Acquires a permit; returns `None` at the limit of the key.
    pub fn try_acquire(self: &Arc<Self>, key: impl Into<K>) -> Option<PerKeyPermit<K>> {
        let key = key.into();
        let mut counts = self.counts();
        let count = counts.entry(key).or_default();
        if *count >= self.per_key_max {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(PerKeyPermit { limit: self.clone(), key })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<K, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Drop for PerKeyPermit<K> {
    fn drop(&mut self) {
        let mut counts = self.limit.counts();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{super::Network, *};

    #[test]
    fn each_network_has_its_own_limit_and_drop_releases_a_permit() {
        let limit = PerKeyLimit::<Network>::new(2);
        let [a, same, b] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|a| a.parse::<IpAddr>().unwrap());
        let first = limit.try_acquire(a).unwrap();
        let second = limit.try_acquire(same).unwrap();
        assert!(limit.try_acquire(a).is_none(), "the same /64");
        assert!(limit.try_acquire(b).is_some());
        drop(first);
        assert!(limit.try_acquire(a).is_some());
        drop(second);
        assert!(limit.counts().is_empty(), "keys without permits are removed");
    }
}
