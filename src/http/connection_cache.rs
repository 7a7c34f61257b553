use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::HeaderValue;

use crate::{
    accounts::{Caller, Directory, Token},
    limits::{Meter, RateShare},
};

/// Whose token came last on a connection, so that the next request with the same
/// needs no more than to compare. It does not print: the token stands in it.
pub(super) struct Known {
    /// None when it is too long to remember.
    authorization: Option<Box<[u8]>>,
    /// To look it up again.
    pub(super) token: Token,
    pub(super) caller: Arc<Caller>,
    /// The rates of heartbeats and releases, and of all else.
    pub(super) meters: [Arc<Meter>; 2],
    /// The directory's, from before it was asked: what has changed since is asked
    /// for again.
    generation: u64,
    until: Instant,
}

impl Known {
    /// For how long the directory, which forgets by itself, is not asked again.
    const REMEMBERED: Duration = Duration::from_secs(1);
    /// The longest header that is remembered, in bytes; that of a token has 58.
    const HEADER_BYTES_MAX: usize = 128;

    pub(super) fn new(
        token: Token,
        caller: Arc<Caller>,
        meters: [Arc<Meter>; 2],
        generation: u64,
        authorization: Option<&HeaderValue>,
    ) -> Self {
        let authorization = authorization.map(HeaderValue::as_bytes);
        let authorization = authorization.filter(|field| field.len() <= Self::HEADER_BYTES_MAX).map(Into::into);
        Self { authorization, token, caller, meters, generation, until: Instant::now() + Self::REMEMBERED }
    }

    pub(super) fn meter(&self, share: RateShare) -> &Meter {
        let [keep, ask] = &self.meters;
        match share {
            RateShare::Keep => keep,
            RateShare::Ask | RateShare::Page => ask,
        }
    }

    /// When this was learnt, which is less than [`Self::REMEMBERED`] before the last use
    /// of the token.
    pub(super) fn used(&self) -> Instant {
        self.until.checked_sub(Self::REMEMBERED).unwrap_or(self.until)
    }

    /// Whether something has changed since this was learnt.
    pub(super) fn is_outdated(&self, directory: &Directory) -> bool {
        self.generation != directory.generation() || self.caller.has_ended()
    }

    /// Whether a request with this header, and no other of its kind, is of the same
    /// caller, about whom nothing has changed.
    pub(super) fn is_still(&self, authorization: &HeaderValue, directory: &Directory, now: Instant) -> bool {
        self.authorization.as_deref() == Some(authorization.as_bytes())
            && now < self.until
            && !self.is_outdated(directory)
    }
}
