//! What was taken away is gone: also for requests that wait, for other links, and for
//! sign-ins under way.

mod cache;
mod operator;
mod passwords;
mod releases;
mod waiting;

use std::time::Duration;

/// How long a server may take to hear of a change, and to act, on a busy machine.
const SOON: Duration = Duration::from_secs(3);
