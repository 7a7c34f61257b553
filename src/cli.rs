//! Commands that ask a server over HTTP, one file each.

mod healthcheck;

pub use self::healthcheck::{Healthcheck, healthcheck};
