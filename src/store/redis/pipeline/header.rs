//! Lines of Redis's protocol, each of which begins with what it is.

/// The longest line: what begins an answer or a word, and errors.
pub(super) const LINE_BYTES_MAX: usize = 8 << 10;
/// What ends a line, and a word.
pub(super) const END: &[u8] = b"\r\n";

/// These are not the answers of a Redis server; where the next one begins is not known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an answer of Redis: {0}")]
pub(super) struct Garbled(pub(super) &'static str);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A word of so many bytes follows; `None` says that there is nothing.
    Word(Option<usize>),
    /// So many elements follow.
    Array(Option<usize>),
    /// A number, or a text without ends of lines.
    Text(&'a [u8]),
    Error(&'a [u8]),
}

impl<'a> Line<'a> {
    /// Takes a line off the beginning of `input`, if it is there as a whole.
    pub(super) fn take(input: &mut &'a [u8]) -> Result<Option<Self>, Garbled> {
        let Some(at) = input.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
            return if input.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Garbled("a line is too long")) };
        };
        let (line, after) = input.split_at_checked(at + 1).unwrap_or_default();
        *input = after;
        match line.strip_suffix(END) {
            Some([b'$', length @ ..]) => count(length).map(|length| Some(Self::Word(length))),
            Some([b'*', length @ ..]) => count(length).map(|length| Some(Self::Array(length))),
            Some([b':' | b'+', text @ ..]) => Ok(Some(Self::Text(text))),
            Some([b'-', error @ ..]) => Ok(Some(Self::Error(error))),
            _ => Err(Garbled("a line is of no known kind")),
        }
    }
}

/// Reads a length; -1 means that there is nothing.
fn count(digits: &[u8]) -> Result<Option<usize>, Garbled> {
    /// More digits than the longest answer can need would only overflow.
    const DIGITS_MAX: usize = 9;
    if digits == b"-1" {
        return Ok(None);
    }
    let garbled = Garbled("a length is none");
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return Err(garbled);
    }
    let add = |number, digit: &u8| digit.is_ascii_digit().then(|| number * 10 + usize::from(digit.wrapping_sub(b'0')));
    digits.iter().try_fold(0, add).map(Some).ok_or(garbled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_when_it_is_there_as_a_whole() {
        let mut input = &b"$12\r\n*-1\r\n:-7\r\n+OK\r\n-ERR no\r\n*999999999\r\n$1\r"[..];
        let expected = [
            Line::Word(Some(12)),
            Line::Array(None),
            Line::Text(b"-7"),
            Line::Text(b"OK"),
            Line::Error(b"ERR no"),
            Line::Array(Some(999_999_999)),
        ];
        for line in expected {
            assert_eq!(Line::take(&mut input), Ok(Some(line)));
        }
        assert_eq!(Line::take(&mut input), Ok(None));
        assert_eq!(input, b"$1\r");
    }

    #[test]
    fn what_redis_would_not_say_is_garbled() {
        for line in ["HTTP/1.1 200\r\n", "+OK\n", "\r\n", "\n", "$\r\n", "$-2\r\n", "*x\r\n", "$+1\r\n", ">1\r\n"] {
            assert!(Line::take(&mut line.as_bytes()).is_err(), "{line:?}");
        }
        assert!(Line::take(&mut &b"$9999999999\r\n"[..]).is_err());
    }

    #[test]
    fn a_line_has_a_longest() {
        let line = |length: usize| ["-".repeat(length - END.len()).as_bytes(), END].concat();
        assert!(matches!(Line::take(&mut &*line(LINE_BYTES_MAX)), Ok(Some(_))));
        assert!(Line::take(&mut &*line(LINE_BYTES_MAX + 1)).is_err());
        assert_eq!(Line::take(&mut &line(LINE_BYTES_MAX + 1)[..LINE_BYTES_MAX - 1]), Ok(None));
    }
}
