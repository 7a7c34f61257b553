use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// How long to pause between two tries to connect, at first and at most. The
/// most is short enough to be back within a second of the server.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// The pauses between tries, without end: longer each time, and not the same for
/// all servers, which would otherwise come back all at once.
pub(super) fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}
