use std::sync::OnceLock;

use metrics::{Histogram, histogram};

/// A file from `lua/`. Scripts are told apart by name, which is unique.
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

    /// How long it took each time, found once: to look for it by its name costs
    /// more than to record.
    pub(super) fn durations(&self) -> &Histogram {
        self.durations.get_or_init(|| histogram!("lockable_store_duration_seconds", "script" => self.name))
    }

    /// The name under which a server has the script once it was loaded,
    /// computed by `compute` the first time.
    pub(super) fn digest(&self, compute: impl FnOnce(&str) -> String) -> &str {
        self.digest.get_or_init(|| compute(self.source))
    }
}
