//! The locks of the `lockable run`s that this process runs under. Waiting for one of them would
//! never end.

use std::env;

use lockable_client::{Client, LockGuard, Refusal};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// `lockable run` passes the list to its command in this variable.
pub(super) const VARIABLE: &str = "LOCKABLE_HELD";

/// One entry per lock, separated by spaces: its URL with the namespace and the owner.
#[derive(Clone, Debug, Default)]
pub(super) struct EnclosingRuns(String);

impl EnclosingRuns {
    pub fn of_this_process() -> Self {
        Self(env::var(VARIABLE).unwrap_or_default())
    }

    /// Whether one of these runs holds the refused lock.
    pub fn has(&self, client: &Client, name: &str, refusal: &Refusal) -> bool {
        let mut entries = self.0.split(' ');
        let lock = address(client, name, refusal.namespace());
        match refusal.holder.as_ref().map(|holder| holder.owner.as_deref()) {
            Some(owner) => {
                let expected = entry(&lock, owner.unwrap_or_default());
                entries.any(|entry| entry == expected)
            }
            // The server hides holders of other accounts. The enclosing run then used the token of
            // another account.
            None => refusal.reason == "held" && entries.any(|entry| entry.starts_with(&format!("{lock}&"))),
        }
    }

    /// The list for a command that also runs under `lock`.
    pub fn with(&self, lock: &LockGuard, name: &str) -> String {
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
