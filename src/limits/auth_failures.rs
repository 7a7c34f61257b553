use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, clock::Clock};
use moka::sync::Cache;

use super::PerKeySemaphore;

/// Counts failed authentications per network, and blocks networks with too many. A failure counts
/// only after its lookup has ended, so the lookups in flight are limited, too.
pub struct AuthFailureLimiter {
    /// Lookups in the caches, which are fast.
    pub cache_lookups: Arc<PerKeySemaphore<Network>>,
    /// Lookups in the database. Separate, so that a slow database does not delay lookups in the caches.
    pub database_lookups: Arc<PerKeySemaphore<Network>>,
    per_minute: NonZeroU32,
    failures: Cache<Network, Arc<Failures>>,
}

struct Failures {
    limiter: DefaultDirectRateLimiter,
    blocked_until: Mutex<Option<Instant>>,
}

impl AuthFailureLimiter {
    /// The maximum number of networks with counted failures. The least recently used ones are evicted.
    pub const NETWORKS_MAX: u64 = 100_000;
    /// The maximum numbers of concurrent lookups of one network: in the caches, and in the database,
    /// which has 8 connections by default.
    pub const CACHE_LOOKUPS_MAX: usize = 256;
    pub const DATABASE_LOOKUPS_MAX: usize = 4;
    /// The maximum number of running and queued lookups of one network. It applies separately to the
    /// caches and to the database.
    pub const LOOKUP_QUEUE_MAX: usize = 1_000;

    /// Allows each network `per_minute` failures at once, and `per_minute` failures a minute in the long run.
    pub fn new(per_minute: NonZeroU32) -> Self {
        let failures = Cache::builder().max_capacity(Self::NETWORKS_MAX).time_to_idle(Duration::from_secs(120)).build();
        Self {
            cache_lookups: PerKeySemaphore::new(Self::CACHE_LOOKUPS_MAX, Self::LOOKUP_QUEUE_MAX),
            database_lookups: PerKeySemaphore::new(Self::DATABASE_LOOKUPS_MAX, Self::LOOKUP_QUEUE_MAX),
            per_minute,
            failures,
        }
    }

    /// The time for which the address remains blocked; `None` if it is not blocked.
    pub fn blocked_for(&self, address: IpAddr) -> Option<Duration> {
        let failures = self.failures.get(&Network::from(address))?;
        let blocked_until = (*failures.blocked_until.lock().unwrap_or_else(PoisonError::into_inner))?;
        blocked_until.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }

    /// Counts a failure; blocks the network once it is over the limit.
    pub fn record_failure(&self, address: IpAddr) {
        let failures = self.failures.get_with(Network::from(address), || {
            let quota = Quota::per_minute(self.per_minute);
            Arc::new(Failures { limiter: DefaultDirectRateLimiter::direct(quota), blocked_until: Mutex::new(None) })
        });
        if let Err(refused) = failures.limiter.check() {
            let wait = refused.wait_time_from(failures.limiter.clock().now());
            *failures.blocked_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + wait);
        }
    }
}

/// The network of one client: an IPv4 address, or an IPv6 /64, within which a client can choose its
/// address (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_is_blocked_after_too_many_failures() {
        let limiter = AuthFailureLimiter::new(NonZeroU32::new(3).unwrap());
        let [a, b, c] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|a| a.parse().unwrap());
        for _ in 0..3 {
            assert_eq!(limiter.blocked_for(a), None);
            limiter.record_failure(a);
        }
        limiter.record_failure(b);
        assert!(limiter.blocked_for(a).is_some_and(|wait| wait <= Duration::from_secs(20)));
        assert!(limiter.blocked_for(b).is_some(), "the same /64");
        assert_eq!(limiter.blocked_for(c), None);
    }

    #[test]
    fn ipv4_mapped_address_equals_the_ipv4_address() {
        let [ipv6, ipv4] = ["::ffff:192.0.2.1", "192.0.2.1"].map(|a| Network::from(a.parse::<IpAddr>().unwrap()));
        assert_eq!(ipv6, ipv4);
    }
}
