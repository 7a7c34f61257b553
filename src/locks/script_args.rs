use std::{fmt, fmt::Write as _};

use smallvec::SmallVec;

/// The words that go with a script, one behind the other in one text: there are
/// some twenty for each request, and to keep each by itself costs more than to
/// write it.
pub(super) struct Words {
    text: String,
    /// Where each ends.
    ends: SmallVec<[u32; 13]>,
}

/// Words as scripts take them. A request has room for them while it is under way: for
/// all keys that there are, and for as many arguments as nearly all have.
pub(super) type KeySlices<'a> = SmallVec<[&'a str; 10]>;
pub(super) type ArgSlices<'a> = SmallVec<[&'a str; 13]>;

impl Words {
    /// Most requests fit without growing.
    const BYTES: usize = 512;

    pub(super) fn new() -> Self {
        Self { text: String::with_capacity(Self::BYTES), ends: SmallVec::new() }
    }

    /// Adds a word that is written by `write`.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut String)) -> &mut Self {
        write(&mut self.text);
        self.ends.push(self.text.len() as u32);
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.write(|words| words.push_str(text))
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.write(|words| words.push_str(itoa::Buffer::new().format(number)))
    }

    pub(super) fn shown(&mut self, shown: impl fmt::Display) -> &mut Self {
        self.write(|words| {
            // A text can always be written to.
            let _ = write!(words, "{shown}");
        })
    }

    pub(super) fn slices(&self) -> ArgSlices<'_> {
        self.iter().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let mut from = 0;
        self.ends.iter().map(move |end| {
            let word = self.text.get(from..*end as usize).unwrap_or_default();
            from = *end as usize;
            word
        })
    }

    /// The word at `index`; nothing where there is none.
    pub(super) fn get(&self, index: usize) -> &str {
        let end = |index: usize| self.ends.get(index).map(|end| *end as usize);
        let from = index.checked_sub(1).map_or(Some(0), end);
        let word = || self.text.get(from?..end(index)?);
        word().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_they_were_written() {
        let mut words = Words::new();
        words.text("a").text("").number(u64::MAX).shown(1.5).write(|text| text.push_str("ü\n"));
        let expected = ["a", "", "18446744073709551615", "1.5", "ü\n"];
        assert_eq!(words.slices()[..], expected);
        assert!(expected.iter().enumerate().all(|(index, word)| words.get(index) == *word));
        assert_eq!(words.get(5), "");
    }
}
