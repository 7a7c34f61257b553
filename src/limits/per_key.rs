use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many of something each client has open, so that none takes those of all
/// others: connections of an address, pages of an account that are live.
pub struct Shares<K: Copy + Eq + Hash> {
    each_max: u32,
    open: Mutex<HashMap<K, u32>>,
}

/// One of them, for as long as this is kept.
pub struct Share<K: Copy + Eq + Hash> {
    shares: Arc<Shares<K>>,
    of: K,
}

impl<K: Copy + Eq + Hash> Shares<K> {
    /// Lets each client have `each_max`.
    pub fn new(each_max: u32) -> Arc<Self> {
        Arc::new(Self { each_max, open: Mutex::default() })
    }

    /// Counts one more, unless the client has as many as it may.
    pub fn admit(self: &Arc<Self>, of: impl Into<K>) -> Option<Share<K>> {
        let of = of.into();
        let mut open = self.open();
        let count = open.entry(of).or_default();
        if *count >= self.each_max {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Share { shares: self.clone(), of })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<K, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut open = self.shares.open();
        if let Some(count) = open.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{super::Network, *};

    #[test]
    fn an_address_has_its_share_and_what_it_gives_back() {
        let shares = Shares::<Network>::new(2);
        let [a, same, b] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|a| a.parse::<IpAddr>().unwrap());
        let first = shares.admit(a).unwrap();
        let second = shares.admit(same).unwrap();
        assert!(shares.admit(a).is_none(), "the same /64");
        assert!(shares.admit(b).is_some());
        drop(first);
        assert!(shares.admit(a).is_some());
        drop(second);
        assert!(shares.open().is_empty(), "nothing is left of those who went");
    }
}
