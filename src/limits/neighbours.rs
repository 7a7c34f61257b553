use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::addresses::network;

/// How many connections each client address has, so that none takes those of
/// all others.
pub struct Neighbours {
    each_max: u32,
    open: Mutex<HashMap<IpAddr, u32>>,
}

/// One connection of an address, for as long as this is kept.
pub struct Neighbour {
    neighbours: Arc<Neighbours>,
    network: IpAddr,
}

impl Neighbours {
    /// Lets each address have `each_max` connections. IPv6 addresses of one /64
    /// are one address.
    pub fn new(each_max: u32) -> Arc<Self> {
        Arc::new(Self { each_max, open: Mutex::default() })
    }

    /// Counts a connection, unless the address has as many as it may.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Neighbour> {
        let network = network(address);
        let mut open = self.open();
        let count = open.entry(network).or_default();
        if *count >= self.each_max {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Neighbour { neighbours: self.clone(), network })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let mut open = self.neighbours.open();
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_what_it_gives_back() {
        let neighbours = Neighbours::new(2);
        let [a, same, b] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|a| a.parse().unwrap());
        let first = neighbours.admit(a).unwrap();
        let second = neighbours.admit(same).unwrap();
        assert!(neighbours.admit(a).is_none(), "the same /64");
        assert!(neighbours.admit(b).is_some());
        drop(first);
        assert!(neighbours.admit(a).is_some());
        drop(second);
        assert!(neighbours.open().is_empty(), "nothing is left of those who went");
    }
}
