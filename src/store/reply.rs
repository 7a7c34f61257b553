use std::{fmt, str::FromStr};

use smallvec::SmallVec;

/// What a script returned: a status word, and the words that belong to it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// All words, one behind the other: one allocation, and not one for each.
    text: String,
    /// Where each word ends. Most replies have no more than fit here.
    ends: Ends,
}

/// Where words end in a text that holds them all.
pub(super) type Ends = SmallVec<[u32; 12]>;

/// A reply that is not what its script's header promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a script returned what it should not: {0:?}")]
pub struct BadReply(Reply);

impl Reply {
    /// The words that end there in `text`; nothing unless each is a text for itself.
    pub(super) fn read(text: &[u8], ends: Ends) -> Option<Self> {
        let reply = Self { text: str::from_utf8(text).ok()?.to_owned(), ends };
        let is_sound = (0..reply.ends.len()).all(|index| reply.get(index).is_some());
        is_sound.then_some(reply)
    }

    /// Adds a word. All of them together are shorter than 4 GiB.
    pub(super) fn push(&mut self, word: &str) {
        self.text.push_str(word);
        self.ends.push(self.text.len() as u32);
    }

    /// The first word, or nothing for an empty reply.
    pub fn status(&self) -> &str {
        self.get(0).unwrap_or_default()
    }

    /// The word at `index`, the status being 0, read as a `T`.
    ///
    /// # Errors
    /// When there is no such word, or it does not read as a `T`.
    pub fn word<T: FromStr>(&self, index: usize) -> Result<T, BadReply> {
        self.get(index).and_then(|word| word.parse().ok()).ok_or_else(|| self.bad())
    }

    /// The word at `index` as it is.
    ///
    /// # Errors
    /// When there is no such word.
    pub fn text(&self, index: usize) -> Result<&str, BadReply> {
        self.get(index).ok_or_else(|| self.bad())
    }

    /// All words from `index` on.
    pub fn texts(&self, index: usize) -> impl Iterator<Item = &str> {
        (index..self.ends.len()).filter_map(|index| self.get(index))
    }

    /// The error that says this reply cannot be read.
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
    fn a_reply_is_its_words() {
        let reply: Reply = ["held", "", "42", "é"].into_iter().collect();
        assert_eq!((reply.status(), reply.text(1), reply.word(2)), ("held", Ok(""), Ok(42)));
        assert_eq!(reply.texts(1).collect::<Vec<_>>(), ["", "42", "é"]);
        assert_eq!(reply.texts(9).count(), 0);
        assert!(reply.text(4).is_err() && reply.word::<u8>(1).is_err() && reply.word::<u8>(3).is_err());
        assert_eq!(reply.bad().to_string(), r#"a script returned what it should not: ["held", "", "42", "é"]"#);
        assert_eq!(Reply::default().status(), "");
        // The same text in other words.
        assert_ne!(reply, ["held", "4", "2", "é"].into_iter().collect());
    }

    #[test]
    fn words_are_read_only_where_each_is_a_text() {
        let read = |text: &[u8], ends: &[u32]| Reply::read(text, ends.iter().copied().collect());
        assert_eq!(read("aé".as_bytes(), &[1, 3]), Some(["a", "é"].into_iter().collect()));
        // A letter that is cut in two, and ends that are none.
        assert_eq!(read("aé".as_bytes(), &[2, 3]), None);
        assert_eq!(read(b"\xff", &[1]), None);
        assert_eq!(read(b"ab", &[2, 1]), None);
        assert_eq!(read(b"ab", &[3]), None);
    }
}
