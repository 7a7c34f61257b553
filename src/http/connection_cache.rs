use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::HeaderValue;

use crate::{
    accounts::{Caller, Token, TokenCache},
    limits::{AccountRateLimiter, RateClass},
};

/// The authentication of the last request of a connection: the next request with the same header needs
/// only a comparison. Without `Debug`, because it contains the token.
pub(super) struct ConnectionCache {
    /// `None` if it is longer than [`Self::HEADER_BYTES_MAX`].
    authorization: Option<Box<[u8]>>,
    /// For a later check.
    pub(super) token: Token,
    pub(super) caller: Arc<Caller>,
    /// The limiters of heartbeats and releases, and of all other requests.
    pub(super) limiters: [Arc<AccountRateLimiter>; 2],
    /// The generation of the token cache before the lookup; any later change makes this entry outdated.
    generation: u64,
    expires: Instant,
}

impl ConnectionCache {
    /// The lifetime of an entry; afterwards the token cache, which has its own expiry, is read again.
    const TTL: Duration = Duration::from_secs(1);
    /// The longest cached header, in bytes; basic authentication with a token has 58.
    const HEADER_BYTES_MAX: usize = 128;

    pub(super) fn new(
        token: Token,
        caller: Arc<Caller>,
        limiters: [Arc<AccountRateLimiter>; 2],
        generation: u64,
        authorization: Option<&HeaderValue>,
    ) -> Self {
        let authorization = authorization.map(HeaderValue::as_bytes);
        let authorization = authorization.filter(|field| field.len() <= Self::HEADER_BYTES_MAX).map(Into::into);
        Self { authorization, token, caller, limiters, generation, expires: Instant::now() + Self::TTL }
    }

    pub(super) fn limiter(&self, class: RateClass) -> &AccountRateLimiter {
        let [renewal, general] = &self.limiters;
        match class {
            RateClass::Renewal => renewal,
            RateClass::General | RateClass::Page => general,
        }
    }

    /// The time of the lookup, which is less than [`Self::TTL`] before the actual last use of the token.
    pub(super) fn last_used(&self) -> Instant {
        self.expires.checked_sub(Self::TTL).unwrap_or(self.expires)
    }

    /// Whether an account changed since the lookup, or the token expired.
    pub(super) fn is_outdated(&self, token_cache: &TokenCache) -> bool {
        self.generation != token_cache.generation() || self.caller.is_expired()
    }

    /// Whether this header, the only `Authorization` header of a request, equals the cached one, and
    /// the entry is not outdated.
    pub(super) fn matches(&self, authorization: &HeaderValue, token_cache: &TokenCache, now: Instant) -> bool {
        self.authorization.as_deref() == Some(authorization.as_bytes())
            && now < self.expires
            && !self.is_outdated(token_cache)
    }
}
