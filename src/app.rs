//! What handlers share.

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::{
    accounts::Directory,
    limits::{Addresses, Tokens},
    locks::Locks,
};

/// Everything that a request may need, made once at the start.
pub struct App {
    pub locks: Locks,
    pub directory: Arc<Directory>,
    /// The rates of tokens.
    pub tokens: Tokens,
    /// Failed authentications of client addresses.
    pub addresses: Addresses,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long a request may take in all.
    pub request_timeout: Duration,
}
