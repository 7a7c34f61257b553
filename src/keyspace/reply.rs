use std::str::FromStr;

/// What a script returned: a status word, and the words that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply(Vec<String>);

/// A reply that is not what its script's header promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a script returned what it should not: {0:?}")]
pub struct BadReply(Reply);

impl Reply {
    pub fn new(words: Vec<String>) -> Self {
        Self(words)
    }

    /// The first word, or nothing for an empty reply.
    pub fn status(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// The word at `index`, the status being 0, read as a `T`.
    ///
    /// # Errors
    /// When there is no such word, or it does not read as a `T`.
    pub fn word<T: FromStr>(&self, index: usize) -> Result<T, BadReply> {
        self.0.get(index).and_then(|word| word.parse().ok()).ok_or_else(|| self.bad())
    }

    /// The word at `index` as it is.
    ///
    /// # Errors
    /// When there is no such word.
    pub fn text(&self, index: usize) -> Result<&str, BadReply> {
        self.0.get(index).map(String::as_str).ok_or_else(|| self.bad())
    }

    /// All words from `index` on.
    pub fn texts(&self, index: usize) -> &[String] {
        self.0.get(index..).unwrap_or_default()
    }

    /// The error that says this reply cannot be read.
    pub fn bad(&self) -> BadReply {
        BadReply(self.clone())
    }
}
