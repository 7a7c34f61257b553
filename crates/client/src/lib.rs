#![doc = include_str!("../README.md")]

mod answer;
mod connection;
mod error;
mod guard;
mod proxy;
mod renewer;
mod request;
mod wait;

pub use lockable_boot_time::BootTime;

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
