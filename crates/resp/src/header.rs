//! Header lines of RESP. The first byte is the type.

/// The longest header line: the start of a reply or an element, or an error.
pub(super) const HEADER_BYTES_MAX: usize = 8 << 10;
/// The end of a header or a bulk string.
pub(super) const END: &[u8] = b"\r\n";

/// The stream is not a valid sequence of replies. The start of the next reply is unknown.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid reply of Redis: {0}")]
pub(super) struct ProtocolError(pub(super) &'static str);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header<'a> {
    /// The length in bytes of the bulk string that follows; `None` for nil.
    BulkString(Option<usize>),
    /// The number of elements that follow; `None` for nil.
    Array(Option<usize>),
    /// An integer, or a simple string.
    Simple(&'a [u8]),
    Error(&'a [u8]),
}

impl<'a> Header<'a> {
    /// Removes a header from the front of `input`, if it is complete.
    pub(super) fn take(input: &mut &'a [u8]) -> Result<Option<Self>, ProtocolError> {
        let Some(at) = input.iter().take(HEADER_BYTES_MAX).position(|byte| *byte == b'\n') else {
            return if input.len() < HEADER_BYTES_MAX { Ok(None) } else { Err(ProtocolError("a header is too long")) };
        };
        let (line, after) = input.split_at_checked(at + 1).unwrap_or_default();
        *input = after;
        match line.strip_suffix(END) {
            Some([b'$', length @ ..]) => count(length).map(|length| Some(Self::BulkString(length))),
            Some([b'*', length @ ..]) => count(length).map(|length| Some(Self::Array(length))),
            Some([b':' | b'+', text @ ..]) => Ok(Some(Self::Simple(text))),
            Some([b'-', error @ ..]) => Ok(Some(Self::Error(error))),
            _ => Err(ProtocolError("a header has an unknown type")),
        }
    }
}

/// Parses a length; -1 means nil.
fn count(digits: &[u8]) -> Result<Option<usize>, ProtocolError> {
    /// The longest reply needs fewer digits; more could overflow.
    const DIGITS_MAX: usize = 9;
    if digits == b"-1" {
        return Ok(None);
    }
    let error = ProtocolError("invalid length");
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return Err(error);
    }
    let add = |number, digit: &u8| digit.is_ascii_digit().then(|| number * 10 + usize::from(digit.wrapping_sub(b'0')));
    digits.iter().try_fold(0, add).map(Some).ok_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_taken_once_complete() {
        let mut input = &b"$12\r\n*-1\r\n:-7\r\n+OK\r\n-ERR no\r\n*999999999\r\n$1\r"[..];
        let expected = [
            Header::BulkString(Some(12)),
            Header::Array(None),
            Header::Simple(b"-7"),
            Header::Simple(b"OK"),
            Header::Error(b"ERR no"),
            Header::Array(Some(999_999_999)),
        ];
        for line in expected {
            assert_eq!(Header::take(&mut input), Ok(Some(line)));
        }
        assert_eq!(Header::take(&mut input), Ok(None));
        assert_eq!(input, b"$1\r");
    }

    #[test]
    fn invalid_headers_are_errors() {
        for line in ["HTTP/1.1 200\r\n", "+OK\n", "\r\n", "\n", "$\r\n", "$-2\r\n", "*x\r\n", "$+1\r\n", ">1\r\n"] {
            assert!(Header::take(&mut line.as_bytes()).is_err(), "{line:?}");
        }
        assert!(Header::take(&mut &b"$9999999999\r\n"[..]).is_err());
    }

    #[test]
    fn header_length_is_limited() {
        let line = |length: usize| ["-".repeat(length - END.len()).as_bytes(), END].concat();
        assert!(matches!(Header::take(&mut &*line(HEADER_BYTES_MAX)), Ok(Some(_))));
        assert!(Header::take(&mut &*line(HEADER_BYTES_MAX + 1)).is_err());
        assert_eq!(Header::take(&mut &line(HEADER_BYTES_MAX + 1)[..HEADER_BYTES_MAX - 1]), Ok(None));
    }
}
