use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, clock::Clock};
use moka::sync::Cache;

use super::Turns;

/// Counts failed authentications of client addresses, and says which have made
/// too many. Since a failure counts only once it is known, an address also has no
/// more than a few lookups in flight.
pub struct Addresses {
    /// Lookups in the caches, which all get there soon.
    pub caches: Arc<Turns<Network>>,
    /// Lookups in the database, of which a slow one keeps nobody from the caches.
    pub database: Arc<Turns<Network>>,
    per_minute: NonZeroU32,
    failures: Cache<Network, Arc<Failures>>,
}

struct Failures {
    limiter: DefaultDirectRateLimiter,
    refused_until: Mutex<Option<Instant>>,
}

impl Addresses {
    /// Of how many addresses failures are remembered; with more, those that
    /// were quiet the longest are forgotten.
    pub const REMEMBERED_MAX: u64 = 100_000;
    /// How many lookups of an address are in flight at once: in the caches, and
    /// in the database, which has twice as many connections by default.
    pub const CACHE_LOOKUPS_MAX: usize = 256;
    pub const DATABASE_LOOKUPS_MAX: usize = 4;
    /// How many lookups of an address may be in flight in each of these, or wait for it.
    pub const LOOKUPS_LINE_MAX: usize = 1_000;

    /// Lets each address fail `per_minute` times at once, and that many a
    /// minute in the long run.
    pub fn new(per_minute: NonZeroU32) -> Self {
        let failures =
            Cache::builder().max_capacity(Self::REMEMBERED_MAX).time_to_idle(Duration::from_secs(120)).build();
        Self {
            caches: Turns::new(Self::CACHE_LOOKUPS_MAX, Self::LOOKUPS_LINE_MAX),
            database: Turns::new(Self::DATABASE_LOOKUPS_MAX, Self::LOOKUPS_LINE_MAX),
            per_minute,
            failures,
        }
    }

    /// How long an address is refused, if it has failed too often.
    pub fn refusal(&self, address: IpAddr) -> Option<Duration> {
        let failures = self.failures.get(&Network::from(address))?;
        let refused_until = (*failures.refused_until.lock().unwrap_or_else(PoisonError::into_inner))?;
        refused_until.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }

    /// Counts a failure.
    pub fn record_failure(&self, address: IpAddr) {
        let failures = self.failures.get_with(Network::from(address), || {
            let quota = Quota::per_minute(self.per_minute);
            Arc::new(Failures { limiter: DefaultDirectRateLimiter::direct(quota), refused_until: Mutex::new(None) })
        });
        if let Err(refused) = failures.limiter.check() {
            let wait = refused.wait_time_from(failures.limiter.clock().now());
            *failures.refused_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + wait);
        }
    }
}

/// What one client can be expected to have to itself: an IPv4 address, or a /64
/// of IPv6, within which a client may choose its address (RFC 6177).
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
    fn an_address_is_refused_after_its_allowance_and_others_are_not() {
        let addresses = Addresses::new(NonZeroU32::new(3).unwrap());
        let [a, b, c] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|a| a.parse().unwrap());
        for _ in 0..3 {
            assert_eq!(addresses.refusal(a), None);
            addresses.record_failure(a);
        }
        addresses.record_failure(b);
        assert!(addresses.refusal(a).is_some_and(|wait| wait <= Duration::from_secs(20)));
        assert!(addresses.refusal(b).is_some(), "the same /64");
        assert_eq!(addresses.refusal(c), None);
    }

    #[test]
    fn an_ipv4_address_is_the_same_in_its_ipv6_form() {
        let [ipv6, ipv4] = ["::ffff:192.0.2.1", "192.0.2.1"].map(|a| Network::from(a.parse::<IpAddr>().unwrap()));
        assert_eq!(ipv6, ipv4);
    }
}
