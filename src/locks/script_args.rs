use std::{fmt, fmt::Write as _};

use smallvec::SmallVec;

/// Keys or arguments of a script, concatenated in one string: a request has about twenty, and
/// one allocation for each would cost more than its formatting.
pub(super) struct ScriptArgs {
    text: String,
    /// The end offset of each.
    ends: SmallVec<[u32; 13]>,
}

/// Slices for one script call. Inline capacity: all keys, and the arguments of nearly all
/// calls.
pub(super) type KeySlices<'a> = SmallVec<[&'a str; 10]>;
pub(super) type ArgSlices<'a> = SmallVec<[&'a str; 13]>;

impl ScriptArgs {
    /// Enough for most requests.
    const BYTES: usize = 512;

    pub(super) fn new() -> Self {
        Self { text: String::with_capacity(Self::BYTES), ends: SmallVec::new() }
    }

    /// Appends an argument that `write` formats.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut String)) -> &mut Self {
        write(&mut self.text);
        self.ends.push(self.text.len() as u32);
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.write(|args| args.push_str(text))
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.write(|args| args.push_str(itoa::Buffer::new().format(number)))
    }

    pub(super) fn display(&mut self, value: impl fmt::Display) -> &mut Self {
        self.write(|args| {
            // Writing to a string cannot fail.
            let _ = write!(args, "{value}");
        })
    }

    pub(super) fn slices(&self) -> ArgSlices<'_> {
        self.iter().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let mut from = 0;
        self.ends.iter().map(move |end| {
            let arg = self.text.get(from..*end as usize).unwrap_or_default();
            from = *end as usize;
            arg
        })
    }

    /// The argument at `index`; empty if there is none.
    pub(super) fn get(&self, index: usize) -> &str {
        let end = |index: usize| self.ends.get(index).map(|end| *end as usize);
        let from = index.checked_sub(1).map_or(Some(0), end);
        let arg = || self.text.get(from?..end(index)?);
        arg().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn args_are_returned_as_written() {
        let mut args = ScriptArgs::new();
        args.text("a").text("").number(u64::MAX).display(1.5).write(|text| text.push_str("ü\n"));
        let expected = ["a", "", "18446744073709551615", "1.5", "ü\n"];
        assert_eq!(args.slices()[..], expected);
        assert!(expected.iter().enumerate().all(|(index, arg)| args.get(index) == *arg));
        assert_eq!(args.get(5), "");
    }
}
