use std::{fmt, str::FromStr};

use smallvec::SmallVec;

/// A script's reply: a status word, followed by further words.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// All words, concatenated: one allocation instead of one a word.
    text: String,
    /// The end of each word in `text`. Most replies fit without an allocation.
    ends: Ends,
}

/// The ends of words in one text.
pub(crate) type Ends = SmallVec<[u32; 12]>;

/// A reply that violates the header of its script.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a script returned an unexpected reply: {0:?}")]
pub struct BadReply(Reply);

impl Reply {
    /// The words of `text` with these ends; `None` unless each word is valid UTF-8.
    pub(crate) fn read(text: &[u8], ends: Ends) -> Option<Self> {
        let reply = Self { text: str::from_utf8(text).ok()?.to_owned(), ends };
        let is_valid = (0..reply.ends.len()).all(|index| reply.get(index).is_some());
        is_valid.then_some(reply)
    }

    /// Appends a word. All words together must be shorter than 4 GiB.
    pub fn push(&mut self, word: &str) {
        self.text.push_str(word);
        self.ends.push(self.text.len() as u32);
    }

    /// The first word; empty for an empty reply.
    pub fn status(&self) -> &str {
        self.get(0).unwrap_or_default()
    }

    /// The word at `index`, parsed as a `T`. The status has index 0.
    ///
    /// # Errors
    /// When the word is missing, or is not a `T`.
    pub fn word<T: FromStr>(&self, index: usize) -> Result<T, BadReply> {
        self.get(index).and_then(|word| word.parse().ok()).ok_or_else(|| self.bad())
    }

    /// The word at `index`.
    ///
    /// # Errors
    /// When the word is missing.
    pub fn text(&self, index: usize) -> Result<&str, BadReply> {
        self.get(index).ok_or_else(|| self.bad())
    }

    /// All words from `index` on.
    pub fn texts(&self, index: usize) -> impl Iterator<Item = &str> {
        (index..self.ends.len()).filter_map(|index| self.get(index))
    }

    /// The error for a reply that cannot be parsed.
    pub fn bad(&self) -> BadReply {
        BadReply(self.clone())
    }

    fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let begin = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.text.get(begin as usize..end as usize)
    }
}

impl<'a> FromIterator<&'a str> for Reply {
    fn from_iter<I: IntoIterator<Item = &'a str>>(words: I) -> Self {
        let mut reply = Self::default();
        words.into_iter().for_each(|word| reply.push(word));
        reply
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.texts(0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_returns_its_words() {
        let reply: Reply = ["held", "", "42", "é"].into_iter().collect();
        assert_eq!((reply.status(), reply.text(1), reply.word(2)), ("held", Ok(""), Ok(42)));
        assert_eq!(reply.texts(1).collect::<Vec<_>>(), ["", "42", "é"]);
        assert_eq!(reply.texts(9).count(), 0);
        assert!(reply.text(4).is_err() && reply.word::<u8>(1).is_err() && reply.word::<u8>(3).is_err());
        assert_eq!(reply.bad().to_string(), r#"a script returned an unexpected reply: ["held", "", "42", "é"]"#);
        assert_eq!(Reply::default().status(), "");
        // The same text with other word boundaries.
        assert_ne!(reply, ["held", "4", "2", "é"].into_iter().collect());
    }

    #[test]
    fn words_must_be_utf8() {
        let read = |text: &[u8], ends: &[u32]| Reply::read(text, ends.iter().copied().collect());
        assert_eq!(read("aé".as_bytes(), &[1, 3]), Some(["a", "é"].into_iter().collect()));
        // A character cut in two, and invalid ends.
        assert_eq!(read("aé".as_bytes(), &[2, 3]), None);
        assert_eq!(read(b"\xff", &[1]), None);
        assert_eq!(read(b"ab", &[2, 1]), None);
        assert_eq!(read(b"ab", &[3]), None);
    }
}
