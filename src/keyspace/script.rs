use std::sync::OnceLock;

/// A file from `lua/`. Scripts are told apart by name, which is unique.
#[derive(Debug)]
pub struct Script {
    pub name: &'static str,
    pub source: &'static str,
    digest: OnceLock<String>,
}

impl Script {
    pub const fn new(name: &'static str, source: &'static str) -> Self {
        Self { name, source, digest: OnceLock::new() }
    }

    /// The name under which a server has the script once it was loaded,
    /// computed by `compute` the first time.
    pub(super) fn digest(&self, compute: impl FnOnce(&str) -> String) -> &str {
        self.digest.get_or_init(|| compute(self.source))
    }
}
