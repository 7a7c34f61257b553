//! The client of a Lockable server, for Rust programs and for the command line.
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
//! A [`LockGuard`] renews the lease until it is released or dropped. The holder must stop its work
//! when [`LockGuard::lost`] returns. Its [fencing token](LockGuard::fencing_token) protects work that
//! cannot be stopped.

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
        Account, AcquireOutcome, Grant, Holder, ListedLock, NotHeld, Page, Plan, Refusal, Status, TokenInfo, clock,
        recovering,
    },
    connection::{Builder, Client, parse_address},
    error::{Error, Peer, Problem},
    guard::{LockEvents, LockGuard, RELEASE_TIMEOUT},
    proxy::Proxy,
    renewer::Loss,
    request::LockRequest,
    wait::{CANCEL_TIMEOUT, Progress},
};
