//! Commands in RESP: an array of bulk strings.

/// Appends a command of these words, in at most [`size`] bytes.
pub(super) fn command<'a>(out: &mut Vec<u8>, words: impl Iterator<Item = &'a str> + Clone) {
    write_header(out, b'*', words.clone().count());
    for word in words {
        write_header(out, b'$', word.len());
        out.extend_from_slice(word.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// The largest encoded size of a command of these words, in bytes.
pub(super) fn size<'a>(words: impl Iterator<Item = &'a str>) -> usize {
    words.map(|word| word.len() + OVERHEAD_MAX).sum::<usize>() + OVERHEAD_MAX
}

/// The largest overhead of a word: a type byte, twenty digits, and two line ends.
const OVERHEAD_MAX: usize = 1 + 20 + 4;

fn write_header(out: &mut Vec<u8>, kind: u8, count: usize) {
    out.push(kind);
    match u8::try_from(count) {
        // The usual lengths, without a division: a command has about thirty words.
        Ok(short @ 0..=9) => out.push(b'0' + short),
        Ok(short @ 10..=99) => out.extend_from_slice(&[b'0' + short / 10, b'0' + short % 10]),
        _ => out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_an_array_of_bulk_strings() {
        let mut out = b"before".to_vec();
        let long = "x".repeat(100);
        let words = ["EVALSHA", "", "é\r\n", "1234567890", &*long];
        command(&mut out, words.into_iter());
        let expected = "before*5\r\n$7\r\nEVALSHA\r\n$0\r\n\r\n$4\r\né\r\n\r\n$10\r\n1234567890\r\n";
        let expected = format!("{expected}$100\r\n{long}\r\n");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert!(expected.len() - "before".len() <= size(words.into_iter()));
    }
}
