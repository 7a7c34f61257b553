use std::sync::OnceLock;

use metrics::{Histogram, histogram};

/// A file from `lua/`. Names are unique.
pub struct Script {
    pub name: &'static str,
    pub source: &'static str,
    digest: OnceLock<String>,
    durations: OnceLock<Histogram>,
}

impl Script {
    pub const fn new(name: &'static str, source: &'static str) -> Self {
        Self { name, source, digest: OnceLock::new(), durations: OnceLock::new() }
    }

    /// The histogram of the script's durations. Cached, since a look-up by name costs more
    /// than a record.
    pub(super) fn durations(&self) -> &Histogram {
        self.durations.get_or_init(|| histogram!("lockable_store_duration_seconds", "script" => self.name))
    }

    /// The script's digest, under which a server caches it. `compute` runs once.
    pub(super) fn digest(&self, compute: impl FnOnce(&str) -> String) -> &str {
        self.digest.get_or_init(|| compute(self.source))
    }
}
