//! Commands in Redis's protocol: an array of texts, each with its length.

/// Writes a command of these words behind what is there. It takes no more than
/// [`size`] says.
pub(super) fn command<'a>(into: &mut Vec<u8>, words: impl Iterator<Item = &'a str> + Clone) {
    header(into, b'*', words.clone().count());
    for word in words {
        header(into, b'$', word.len());
        into.extend_from_slice(word.as_bytes());
        into.extend_from_slice(b"\r\n");
    }
}

/// How many bytes a command of these words takes at most.
pub(super) fn size<'a>(words: impl Iterator<Item = &'a str>) -> usize {
    words.map(|word| word.len() + AROUND_MAX).sum::<usize>() + AROUND_MAX
}

/// What is around a word at most: a letter, twenty digits, and two ends of lines.
const AROUND_MAX: usize = 1 + 20 + 4;

fn header(into: &mut Vec<u8>, kind: u8, count: usize) {
    into.push(kind);
    match u8::try_from(count) {
        // Nearly all are so short, and there are some thirty in a command.
        Ok(short @ 0..=9) => into.push(b'0' + short),
        Ok(short @ 10..=99) => into.extend_from_slice(&[b'0' + short / 10, b'0' + short % 10]),
        _ => into.extend_from_slice(itoa::Buffer::new().format(count).as_bytes()),
    }
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_texts() {
        let mut into = b"before".to_vec();
        let long = "x".repeat(100);
        let words = ["EVALSHA", "", "é\r\n", "1234567890", &*long];
        command(&mut into, words.into_iter());
        let expected = "before*5\r\n$7\r\nEVALSHA\r\n$0\r\n\r\n$4\r\né\r\n\r\n$10\r\n1234567890\r\n";
        let expected = format!("{expected}$100\r\n{long}\r\n");
        assert_eq!(String::from_utf8(into).unwrap(), expected);
        assert!(expected.len() - "before".len() <= size(words.into_iter()));
    }
}
