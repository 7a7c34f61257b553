//! The client of a Lockable server, for Rust programs and for the commands.
//!
//! ```no_run
//! use std::time::Duration;
//! use lockable::client::{Client, LockRequest};
//!
//! # async fn deploy(_fence: u64) {}
//! # async fn run() -> Result<(), lockable::client::Error> {
//! let token = std::env::var("LOCKABLE_AUTH_TOKEN").unwrap_or_default();
//! let client = Client::builder("https://locks.example.com").token(token).build()?;
//! let request = LockRequest::new("deploy-prod")?.owner("ci-4711")?.lease(Duration::from_secs(60));
//! let lock = client.lock(request, Duration::from_secs(600)).await?;
//! tokio::select! {
//!     () = deploy(lock.fencing_token()) => {}
//!     loss = lock.lost() => eprintln!("stopped: {loss}"),
//! }
//! lock.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Lock`] is renewed until it is released or dropped. Whoever holds one must
//! stop when [`Lock::lost`] says so; what cannot be stopped is protected by its
//! [fencing token](Lock::fencing_token).

mod answer;
mod connection;
mod error;
mod guard;
mod proxy;
mod renewer;
mod request;
mod wait;

pub use crate::boot_time::BootTime;

pub use self::{
    answer::{
        Account, AcquireOutcome, Grant, Holder, Listed, NotHeld, Page, Plan, Refusal, Status, TokenInfo, clock,
        recovering,
    },
    connection::{Builder, Client, parse_address},
    error::{Error, Peer, Problem},
    guard::{Changes, Lock, RELEASE_PATIENCE},
    proxy::Proxy,
    renewer::Loss,
    request::LockRequest,
    wait::{FAREWELL_TIMEOUT, Progress},
};
