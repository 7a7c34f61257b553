//! Commands that ask a server over HTTP, one file each.

#![expect(clippy::print_stderr, reason = "this is where the commands speak to a terminal")]

mod healthcheck;
mod run;
mod server;

pub use self::{
    healthcheck::{Healthcheck, healthcheck},
    run::{Run, Watchdog, run, watchdog},
};
