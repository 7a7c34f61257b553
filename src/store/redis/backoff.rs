use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// The shortest and the longest pause between two connection attempts. The longest allows a
/// connection within a second after the server starts.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// Endless pauses between attempts: exponential, with jitter, so that servers do not reconnect
/// all at once.
pub(super) fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}
