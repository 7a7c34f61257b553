//! Incremental decoder of RESP replies: it decodes each byte once, however small the chunks.

use crate::{
    header::{END, Header, ProtocolError},
    reply::{Ends, Reply},
};

/// The longest reply in bytes, including its headers.
pub(super) const REPLY_BYTES_MAX: usize = 16 << 20;
/// The capacity that the decoder keeps after a long reply.
const BUFFER_KEPT_MAX: usize = 64 << 10;

/// A reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    /// An array of strings and integers.
    Array(Reply),
    Text(String),
    /// An error, which begins with its code.
    Error(String),
    /// Any other reply, such as nil or a nested array.
    Other,
}

/// Decodes one reply after another.
#[derive(Default)]
pub(super) struct Decoder {
    /// The words of the current reply, concatenated, with the end of each.
    text: Vec<u8>,
    ends: Ends,
    kind: ReplyKind,
    /// The number of missing elements.
    elements_left: usize,
    /// The number of missing bytes of a bulk string, including its line end.
    bulk_left: usize,
    /// The number of bytes of the current reply so far.
    reply_bytes: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum ReplyKind {
    #[default]
    Single,
    Array,
    Other,
}

impl Decoder {
    /// Decodes up to the end of a reply or of `input`. Returns the number of consumed bytes. An
    /// incomplete header at the end is not consumed: the caller must pass it again.
    pub(super) fn read(&mut self, input: &[u8]) -> Result<(usize, Option<Value>), ProtocolError> {
        let mut input_left = input;
        let reply = loop {
            let before = input_left.len();
            let step = if self.bulk_left > 0 {
                self.read_bulk_string(&mut input_left)?
            } else {
                self.read_header(&mut input_left)?
            };
            self.reply_bytes += before - input_left.len();
            if self.reply_bytes.saturating_add(self.bulk_left) > REPLY_BYTES_MAX {
                return Err(ProtocolError("the reply is too long"));
            }
            match step {
                Step::Done(reply) => break Some(reply),
                Step::Continue => {}
                Step::Incomplete => break None,
            }
        };
        if reply.is_some() {
            self.reset();
        }
        Ok((input.len() - input_left.len(), reply))
    }

    /// Consumes the available part of a bulk string.
    fn read_bulk_string(&mut self, input: &mut &[u8]) -> Result<Step, ProtocolError> {
        let Some((part, after)) = input.split_at_checked(self.bulk_left) else {
            self.text.extend_from_slice(input);
            self.bulk_left -= input.len();
            *input = &[];
            return Ok(Step::Incomplete);
        };
        self.text.extend_from_slice(part);
        *input = after;
        self.bulk_left = 0;
        if !self.text.ends_with(END) {
            return Err(ProtocolError("a bulk string exceeds its length"));
        }
        self.text.truncate(self.text.len() - END.len());
        Ok(self.end_element())
    }

    /// Consumes a header, if it is complete.
    fn read_header(&mut self, input: &mut &[u8]) -> Result<Step, ProtocolError> {
        let Some(header) = Header::take(input)? else { return Ok(Step::Incomplete) };
        match header {
            Header::BulkString(Some(length)) => {
                self.bulk_left = length.saturating_add(END.len());
                Ok(Step::Continue)
            }
            Header::Array(length) => self.begin_array(length),
            Header::Simple(text) => {
                self.text.extend_from_slice(text);
                Ok(self.end_element())
            }
            Header::Error(error) if self.kind == ReplyKind::Single => {
                Ok(Step::Done(Value::Error(String::from_utf8_lossy(error).into_owned())))
            }
            Header::BulkString(None) | Header::Error(_) => Ok(self.end_unexpected()),
        }
    }

    fn begin_array(&mut self, length: Option<usize>) -> Result<Step, ProtocolError> {
        match (self.kind, length) {
            (ReplyKind::Single, Some(0)) => Ok(Step::Done(Value::Array(Reply::default()))),
            (ReplyKind::Single, Some(length)) => {
                (self.kind, self.elements_left) = (ReplyKind::Array, length);
                Ok(Step::Continue)
            }
            // Nested elements are counted and skipped like those of the outer array.
            (_, Some(length)) => {
                self.elements_left =
                    self.elements_left.checked_add(length).ok_or(ProtocolError("too many elements"))?;
                Ok(self.end_unexpected())
            }
            (_, None) => Ok(self.end_unexpected()),
        }
    }

    /// Ends an element of a kind that no script returns.
    fn end_unexpected(&mut self) -> Step {
        self.kind = ReplyKind::Other;
        self.end_element()
    }

    fn end_element(&mut self) -> Step {
        self.ends.push(self.text.len() as u32);
        self.elements_left = self.elements_left.saturating_sub(1);
        if self.elements_left > 0 {
            return Step::Continue;
        }
        let ends = std::mem::take(&mut self.ends);
        let text = || Reply::read(&self.text, ends);
        Step::Done(match self.kind {
            ReplyKind::Single => text().map_or(Value::Other, |reply| Value::Text(reply.status().to_owned())),
            ReplyKind::Array => text().map_or(Value::Other, Value::Array),
            ReplyKind::Other => Value::Other,
        })
    }

    fn reset(&mut self) {
        self.text.clear();
        self.text.shrink_to(BUFFER_KEPT_MAX);
        self.ends.clear();
        (self.kind, self.elements_left, self.reply_bytes) = (ReplyKind::Single, 0, 0);
    }
}

enum Step {
    Done(Value),
    Continue,
    /// The input is used up.
    Incomplete,
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{encode::command, header::HEADER_BYTES_MAX};

    /// Decodes these chunks as the driver does: the unconsumed rest of a chunk precedes the next.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Value>, ProtocolError> {
        let (mut decoder, mut left, mut replies) = (Decoder::default(), Vec::new(), Vec::new());
        for piece in pieces {
            left.extend_from_slice(piece);
            loop {
                let (read, reply) = decoder.read(&left)?;
                left.drain(..read);
                assert!(left.len() < HEADER_BYTES_MAX || reply.is_some(), "{} bytes were left", left.len());
                let Some(reply) = reply else { break };
                replies.push(reply);
            }
        }
        assert_eq!(left, b"");
        Ok(replies)
    }

    fn words(words: &[&str]) -> Value {
        Value::Array(words.iter().copied().collect())
    }

    #[test]
    fn replies_are_decoded_from_any_chunks() {
        let input = "*3\r\n$4\r\nheld\r\n:42\r\n$0\r\n\r\n+OK\r\n*0\r\n-READONLY no\r\n$-1\r\n$5\r\na\r\né\r\n*-1\r\n:7\r\n\
                     *3\r\n$1\r\na\r\n$-1\r\n$1\r\nb\r\n*4\r\n*2\r\n:1\r\n*0\r\n-ERR x\r\n$1\r\na\r\n:2\r\n*1\r\n$1\r\nz\r\n";
        let text = |text: &str| Value::Text(text.into());
        let expected = [
            words(&["held", "42", ""]),
            text("OK"),
            words(&[]),
            Value::Error("READONLY no".into()),
            Value::Other,
            text("a\r\né"),
            Value::Other,
            text("7"),
            Value::Other,
            Value::Other,
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
    fn non_utf8_strings_decode_as_other_and_decoding_continues() {
        assert_eq!(read([&b"*1\r\n$1\r\n\xff\r\n+OK\r\n"[..]]).unwrap(), [Value::Other, Value::Text("OK".into())]);
        assert_eq!(read(["*2\r\n$1\r\n".as_bytes(), b"\xc3\r\n$1\r\n\xa9\r\n"]).unwrap(), [Value::Other]);
    }

    #[test]
    fn bulk_string_length_must_match() {
        assert!(read([&b"$1\r\nab\r\n"[..]]).is_err());
        assert!(read([&b"$3\r\na\r\n+OK\r\n"[..]]).is_err());
    }

    #[test]
    fn reply_size_is_limited() {
        let around = "$16777216\r\n\r\n".len();
        let long = "x".repeat(REPLY_BYTES_MAX - around);
        let reply = format!("${}\r\n{long}\r\n", long.len());
        assert_eq!(read(reply.as_bytes().chunks(HEADER_BYTES_MAX)).unwrap(), [Value::Text(long)]);
        // Rejected at the header.
        let announced = format!("${}\r\n", REPLY_BYTES_MAX - around + 1);
        assert_eq!(Decoder::default().read(announced.as_bytes()), Err(ProtocolError("the reply is too long")));

        // Many short elements.
        let many = format!("*{}\r\n{}", REPLY_BYTES_MAX, ":1\r\n".repeat(REPLY_BYTES_MAX / 4));
        assert!(read(many.as_bytes().chunks(HEADER_BYTES_MAX)).is_err());
    }

    #[test]
    fn buffer_shrinks_after_a_long_reply() {
        let mut decoder = Decoder::default();
        let long = "x".repeat(10 * BUFFER_KEPT_MAX);
        decoder.read(format!("${}\r\n{long}\r\n", long.len()).as_bytes()).unwrap();
        assert!(decoder.text.capacity() <= BUFFER_KEPT_MAX);
    }

    proptest! {
        #[test]
        fn encoded_words_decode_to_the_same_words(
            replies in vec(vec(".{0,40}", 0..8), 1..5),
            cuts in vec(1..20_usize, 1..50),
        ) {
            let mut input = Vec::new();
            for words in &replies {
                command(&mut input, words.iter().map(String::as_str));
            }
            let mut pieces = Vec::new();
            let mut left = &input[..];
            for cut in cuts.iter().cycle() {
                let (piece, bulk_left) = left.split_at(left.len().min(*cut));
                pieces.push(piece);
                left = bulk_left;
                if left.is_empty() {
                    break;
                }
            }
            let expected: Vec<Value> =
                replies.iter().map(|words| Value::Array(words.iter().map(String::as_str).collect())).collect();
            prop_assert_eq!(read(pieces).unwrap(), expected);
        }

        #[test]
        fn decoder_never_panics(input in vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'$'), Just(b'*'), Just(b'1'), any::<u8>()], 0..100)) {
            let mut decoder = Decoder::default();
            let mut left = &input[..];
            while let Ok((read, Some(_))) = decoder.read(left) {
                left = &left[read..];
            }
        }
    }
}
