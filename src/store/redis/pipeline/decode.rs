//! Answers in Redis's protocol, read as they come in: what was read of an answer
//! is kept, and read once only, however small the pieces are.

use super::header::{END, Garbled, Line};
use crate::store::reply::{Ends, Reply};

/// The longest answer in bytes, with all that is around its words.
pub(super) const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How much room is kept for the next answer after a long one.
const ROOM_KEPT_MAX: usize = 64 << 10;

/// What a command was answered.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store::redis) enum Answer {
    /// An array of words and numbers.
    Words(Reply),
    Text(String),
    /// An error, beginning with its code.
    Refusal(String),
    /// Something else, such as nothing, or an array within an array.
    Other,
}

/// Reads one answer after the other.
#[derive(Default)]
pub(super) struct Decoder {
    /// The words of the answer so far, one behind the other, and where each ends.
    text: Vec<u8>,
    ends: Ends,
    kind: Kind,
    /// How many elements are still to come.
    elements: usize,
    /// How many bytes of a word are still to come, those that end its line included.
    rest: usize,
    /// How many bytes the answer took so far.
    taken: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Single,
    Array,
    Other,
}

impl Decoder {
    /// Reads on, until the end of an answer or of `input`. Returns how much of
    /// that it has read: all but the beginning of a line at its end, which has
    /// to be there again the next time.
    pub(super) fn read(&mut self, input: &[u8]) -> Result<(usize, Option<Answer>), Garbled> {
        let mut input_left = input;
        let answer = loop {
            let before = input_left.len();
            let step = if self.rest > 0 { self.read_word(&mut input_left)? } else { self.read_line(&mut input_left)? };
            self.taken += before - input_left.len();
            if self.taken.saturating_add(self.rest) > ANSWER_BYTES_MAX {
                return Err(Garbled("it is too long"));
            }
            match step {
                Step::Done(answer) => break Some(answer),
                Step::On => {}
                Step::Short => break None,
            }
        };
        if answer.is_some() {
            self.reset();
        }
        Ok((input.len() - input_left.len(), answer))
    }

    /// Takes what there is of a word.
    fn read_word(&mut self, input: &mut &[u8]) -> Result<Step, Garbled> {
        let Some((part, after)) = input.split_at_checked(self.rest) else {
            self.text.extend_from_slice(input);
            self.rest -= input.len();
            *input = &[];
            return Ok(Step::Short);
        };
        self.text.extend_from_slice(part);
        *input = after;
        self.rest = 0;
        if !self.text.ends_with(END) {
            return Err(Garbled("a word is longer than it says"));
        }
        self.text.truncate(self.text.len() - END.len());
        Ok(self.end_word())
    }

    /// Takes a line, if it is there as a whole.
    fn read_line(&mut self, input: &mut &[u8]) -> Result<Step, Garbled> {
        let Some(line) = Line::take(input)? else { return Ok(Step::Short) };
        match line {
            Line::Word(Some(length)) => {
                self.rest = length.saturating_add(END.len());
                Ok(Step::On)
            }
            Line::Array(length) => self.begin_array(length),
            Line::Text(text) => {
                self.text.extend_from_slice(text);
                Ok(self.end_word())
            }
            Line::Error(error) if self.kind == Kind::Single => {
                Ok(Step::Done(Answer::Refusal(String::from_utf8_lossy(error).into_owned())))
            }
            Line::Word(None) | Line::Error(_) => Ok(self.end_other()),
        }
    }

    fn begin_array(&mut self, length: Option<usize>) -> Result<Step, Garbled> {
        match (self.kind, length) {
            (Kind::Single, Some(0)) => Ok(Step::Done(Answer::Words(Reply::default()))),
            (Kind::Single, Some(length)) => {
                (self.kind, self.elements) = (Kind::Array, length);
                Ok(Step::On)
            }
            // Its elements are read as if they were those of the outer one.
            (_, Some(length)) => {
                self.elements = self.elements.checked_add(length).ok_or(Garbled("it has too many elements"))?;
                Ok(self.end_other())
            }
            (_, None) => Ok(self.end_other()),
        }
    }

    /// Ends an element that no script returns.
    fn end_other(&mut self) -> Step {
        self.kind = Kind::Other;
        self.end_word()
    }

    fn end_word(&mut self) -> Step {
        self.ends.push(self.text.len() as u32);
        self.elements = self.elements.saturating_sub(1);
        if self.elements > 0 {
            return Step::On;
        }
        let ends = std::mem::take(&mut self.ends);
        let text = || Reply::read(&self.text, ends);
        Step::Done(match self.kind {
            Kind::Single => text().map_or(Answer::Other, |reply| Answer::Text(reply.status().to_owned())),
            Kind::Array => text().map_or(Answer::Other, Answer::Words),
            Kind::Other => Answer::Other,
        })
    }

    fn reset(&mut self) {
        self.text.clear();
        self.text.shrink_to(ROOM_KEPT_MAX);
        self.ends.clear();
        (self.kind, self.elements, self.taken) = (Kind::Single, 0, 0);
    }
}

enum Step {
    Done(Answer),
    On,
    /// There is no more to read.
    Short,
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{super::header::LINE_BYTES_MAX, *};

    /// Reads what comes in these pieces, as the driver does: what is left of one
    /// comes again before the next.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Answer>, Garbled> {
        let (mut decoder, mut left, mut answers) = (Decoder::default(), Vec::new(), Vec::new());
        for piece in pieces {
            left.extend_from_slice(piece);
            loop {
                let (read, answer) = decoder.read(&left)?;
                left.drain(..read);
                assert!(left.len() < LINE_BYTES_MAX || answer.is_some(), "{} bytes were left", left.len());
                let Some(answer) = answer else { break };
                answers.push(answer);
            }
        }
        assert_eq!(left, b"");
        Ok(answers)
    }

    fn words(words: &[&str]) -> Answer {
        Answer::Words(words.iter().copied().collect())
    }

    #[test]
    fn answers_are_read_wherever_they_are_cut() {
        let input = "*3\r\n$4\r\nheld\r\n:42\r\n$0\r\n\r\n+OK\r\n*0\r\n-READONLY no\r\n$-1\r\n$5\r\na\r\né\r\n*-1\r\n:7\r\n\
                     *3\r\n$1\r\na\r\n$-1\r\n$1\r\nb\r\n*4\r\n*2\r\n:1\r\n*0\r\n-ERR x\r\n$1\r\na\r\n:2\r\n*1\r\n$1\r\nz\r\n";
        let text = |text: &str| Answer::Text(text.into());
        let expected = [
            words(&["held", "42", ""]),
            text("OK"),
            words(&[]),
            Answer::Refusal("READONLY no".into()),
            Answer::Other,
            text("a\r\né"),
            Answer::Other,
            text("7"),
            Answer::Other,
            Answer::Other,
            words(&["z"]),
        ];
        assert_eq!(read([input.as_bytes()]).unwrap(), expected);
        assert_eq!(read(input.as_bytes().chunks(1)).unwrap(), expected);
        for at in 0..input.len() {
            let (before, after) = input.as_bytes().split_at(at);
            assert_eq!(read([before, after]).unwrap(), expected, "cut at {at}");
        }
    }

    #[test]
    fn words_that_are_no_text_are_none_and_the_next_answer_is_read() {
        assert_eq!(read([&b"*1\r\n$1\r\n\xff\r\n+OK\r\n"[..]]).unwrap(), [Answer::Other, Answer::Text("OK".into())]);
        assert_eq!(read(["*2\r\n$1\r\n".as_bytes(), b"\xc3\r\n$1\r\n\xa9\r\n"]).unwrap(), [Answer::Other]);
    }

    #[test]
    fn a_word_ends_where_it_says() {
        assert!(read([&b"$1\r\nab\r\n"[..]]).is_err());
        assert!(read([&b"$3\r\na\r\n+OK\r\n"[..]]).is_err());
    }

    #[test]
    fn an_answer_has_a_longest() {
        let around = "$16777216\r\n\r\n".len();
        let long = "x".repeat(ANSWER_BYTES_MAX - around);
        let answer = format!("${}\r\n{long}\r\n", long.len());
        assert_eq!(read(answer.as_bytes().chunks(LINE_BYTES_MAX)).unwrap(), [Answer::Text(long)]);
        // Refused as soon as it is announced.
        let announced = format!("${}\r\n", ANSWER_BYTES_MAX - around + 1);
        assert_eq!(Decoder::default().read(announced.as_bytes()), Err(Garbled("it is too long")));

        // Many elements, without a length that says so.
        let many = format!("*{}\r\n{}", ANSWER_BYTES_MAX, ":1\r\n".repeat(ANSWER_BYTES_MAX / 4));
        assert!(read(many.as_bytes().chunks(LINE_BYTES_MAX)).is_err());
    }

    #[test]
    fn room_for_a_long_answer_is_given_back() {
        let mut decoder = Decoder::default();
        let long = "x".repeat(10 * ROOM_KEPT_MAX);
        decoder.read(format!("${}\r\n{long}\r\n", long.len()).as_bytes()).unwrap();
        assert!(decoder.text.capacity() <= ROOM_KEPT_MAX);
    }

    proptest! {
        #[test]
        fn whatever_words_there_are_come_out_again(
            answers in vec(vec(".{0,40}", 0..8), 1..5),
            cuts in vec(1..20_usize, 1..50),
        ) {
            let mut input = Vec::new();
            for words in &answers {
                super::super::encode::command(&mut input, words.iter().map(String::as_str));
            }
            let mut pieces = Vec::new();
            let mut left = &input[..];
            for cut in cuts.iter().cycle() {
                let (piece, rest) = left.split_at(left.len().min(*cut));
                pieces.push(piece);
                left = rest;
                if left.is_empty() {
                    break;
                }
            }
            let expected: Vec<Answer> =
                answers.iter().map(|words| Answer::Words(words.iter().map(String::as_str).collect())).collect();
            prop_assert_eq!(read(pieces).unwrap(), expected);
        }

        #[test]
        fn nothing_that_comes_in_is_a_panic(input in vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'$'), Just(b'*'), Just(b'1'), any::<u8>()], 0..100)) {
            let mut decoder = Decoder::default();
            let mut left = &input[..];
            while let Ok((read, Some(_))) = decoder.read(left) {
                left = &left[read..];
            }
        }
    }
}
