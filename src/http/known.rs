use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::HeaderValue;

use crate::{
    accounts::{Caller, Directory},
    limits::Meter,
};

/// Whose token came last on a connection, so that the next request with the same
/// needs no more than to compare. It does not print: the token stands in it.
pub(super) struct Known {
    /// None when it is too long to remember.
    authorization: Option<Box<[u8]>>,
    pub(super) caller: Arc<Caller>,
    pub(super) meter: Arc<Meter>,
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
        caller: Arc<Caller>,
        meter: Arc<Meter>,
        generation: u64,
        authorization: Option<&HeaderValue>,
    ) -> Self {
        let authorization = authorization.map(HeaderValue::as_bytes);
        let authorization = authorization.filter(|field| field.len() <= Self::HEADER_BYTES_MAX).map(Into::into);
        Self { authorization, caller, meter, generation, until: Instant::now() + Self::REMEMBERED }
    }

    /// Whether a request with this header, and no other of its kind, is of the same
    /// caller, about whom nothing has changed.
    pub(super) fn is_still(&self, authorization: &HeaderValue, directory: &Directory, now: Instant) -> bool {
        self.authorization.as_deref() == Some(authorization.as_bytes())
            && self.generation == directory.generation()
            && now < self.until
            && !self.caller.has_ended()
    }
}
