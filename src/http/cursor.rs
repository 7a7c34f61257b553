use std::fmt::Write;

use crate::locks::Cursor;

/// The pattern of a cursor: the expiry of the page's last lock, and its lock key in hexadecimal digits.
pub const PATTERN: &str = "^[0-9]{1,15}-(?:[0-9a-f]{2}){0,512}$";

const LOCK_KEY_BYTES_MAX: usize = 512;
const DIGITS_MAX: usize = 15;

/// Encodes a cursor, which is opaque to clients.
pub fn text(cursor: &Cursor) -> String {
    let mut text = format!("{}-", cursor.expires_ms);
    for byte in cursor.lock_key.bytes() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Decodes a cursor.
///
/// # Errors
/// When the text does not match `PATTERN`.
pub fn parse(text: String) -> Result<Cursor, &'static str> {
    let inside = || {
        let (expires_ms, lock_key) = text.split_once('-')?;
        let is_number = (1..=DIGITS_MAX).contains(&expires_ms.len()) && expires_ms.bytes().all(|b| b.is_ascii_digit());
        let is_lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_lock_key =
            lock_key.len() % 2 == 0 && lock_key.len() / 2 <= LOCK_KEY_BYTES_MAX && lock_key.bytes().all(is_lower_hex);
        if !is_number || !is_lock_key {
            return None;
        }
        let bytes = lock_key
            .as_bytes()
            .chunks(2)
            .filter_map(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        let bytes: Vec<u8> = bytes.collect();
        // Any text is a valid position in the order of lock keys.
        let lock_key = String::from_utf8_lossy(&bytes).into_owned();
        Some(Cursor { expires_ms: expires_ms.parse().ok()?, lock_key })
    };
    inside().ok_or("it is not a cursor; send next_cursor of the previous page unchanged")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_encoding_and_malformed_ones_are_refused() {
        let cursor = Cursor { expires_ms: 1_795_000_000_000, lock_key: "-/team/é:x".into() };
        assert_eq!(parse(text(&cursor)), Ok(cursor));
        let longest = Cursor { expires_ms: 1, lock_key: "x".repeat(LOCK_KEY_BYTES_MAX) };
        assert_eq!(parse(text(&longest)), Ok(longest));
        for text in ["", "!", "1", "-", "-61", "1-6", "1-6G", "1-6A", "+1-61", "1234567890123456-61", "1--1"] {
            assert!(parse(text.into()).is_err(), "{text}");
        }
    }
}
