//! Revocation: tokens, accounts, links and sessions end at once, also for queued requests and
//! concurrent sign-ins.

mod cache;
mod operator_actions;
mod passwords;
mod queued_requests;
mod releases;

use std::time::Duration;

/// The time in which a server must apply a change, on a busy machine.
const SOON: Duration = Duration::from_secs(3);
