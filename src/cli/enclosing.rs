//! The locks of the `lockable run`s that this process runs under. To wait for one of them is
//! to wait for oneself.

use std::env;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::client::{Client, Lock, Refusal};

/// Where `lockable run` lists them for the processes that it starts.
pub(super) const VARIABLE: &str = "LOCKABLE_HELD";

/// One entry a lock, separated by spaces: its address, with the namespace and the holder.
#[derive(Clone, Debug, Default)]
pub(super) struct Enclosing(String);

impl Enclosing {
    pub fn of_this_process() -> Self {
        Self(env::var(VARIABLE).unwrap_or_default())
    }

    /// Whether this refusal is due to one of them.
    pub fn has(&self, client: &Client, name: &str, refusal: &Refusal) -> bool {
        let mut entries = self.0.split(' ');
        let lock = address(client, name, refusal.namespace());
        match refusal.holder.as_ref().map(|holder| holder.owner.as_deref()) {
            Some(owner) => {
                let expected = entry(&lock, owner.unwrap_or_default());
                entries.any(|entry| entry == expected)
            }
            // Another account's holder is not shown. Only a run with another token knows its lock.
            None => refusal.reason == "held" && entries.any(|entry| entry.starts_with(&format!("{lock}&"))),
        }
    }

    /// The list for the command that runs under this lock, too.
    pub fn with(&self, lock: &Lock, name: &str) -> String {
        let address = address(lock.client(), name, lock.grant().namespace());
        let own = entry(&address, lock.owner().unwrap_or_default());
        [&self.0, &own].into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" ")
    }
}

fn address(client: &Client, name: &str, namespace: &str) -> String {
    format!("{}/v1/locks/{}?namespace={}", client.origin(), encoded(name), encoded(namespace))
}

fn entry(address: &str, owner: &str) -> String {
    format!("{address}&owner={}", encoded(owner))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
