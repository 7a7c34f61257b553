use std::borrow::Cow;

use percent_encoding::percent_decode;

/// Why decoding failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// A `%` without two hexadecimal digits after it.
    BadEscape,
    NotUtf8,
}

/// Percent-decodes a text once. Unlike browsers it refuses malformed text: a guess could select another
/// lock.
pub(super) fn decode(text: &str) -> Result<Cow<'_, str>, DecodeError> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return Ok(Cow::Borrowed(text));
    }
    let is_escape = |(at, _): (usize, &u8)| {
        bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(is_escape) {
        return Err(DecodeError::BadEscape);
    }
    percent_decode(bytes).decode_utf8().map_err(|_| DecodeError::NotUtf8)
}

/// Decodes the pairs of a query string or a form.
pub(super) fn decode_pairs(text: &str) -> Result<Vec<(String, String)>, DecodeError> {
    let decode_part = |part: &str| decode(&part.replace('+', " ")).map(Cow::into_owned);
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode_part(name)?, decode_part(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_decoded_once_and_strictly() {
        for (text, decoded) in [("a%2Fb", "a/b"), ("%25", "%"), ("%252F", "%2F"), ("a+b", "a+b"), ("%c3%a9", "é")] {
            assert_eq!(decode(text).as_deref(), Ok(decoded));
        }
        for text in ["%", "a%2", "%zz", "%+1", "%%41"] {
            assert_eq!(decode(text), Err(DecodeError::BadEscape), "{text}");
        }
        for text in ["%ff", "%c3", "%ed%a0%80"] {
            assert_eq!(decode(text), Err(DecodeError::NotUtf8), "{text}");
        }
    }

    #[test]
    fn pairs_are_decoded_in_order() {
        let pairs = decode_pairs("a=1&&b=x+y%3D&c").unwrap();
        let expected = [("a", "1"), ("b", "x y="), ("c", "")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(pairs, expected);
        assert_eq!(decode_pairs(""), Ok(vec![]));
        assert_eq!(decode_pairs("a=%f"), Err(DecodeError::BadEscape));
    }
}
