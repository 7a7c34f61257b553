use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::locks::Cursor;

/// A cursor as clients have it, who are to know nothing of its inside.
pub fn text(cursor: &Cursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}:{}", cursor.expires_ms, cursor.place))
}

/// Reads a cursor back.
///
/// # Errors
/// When no server has made it.
pub fn parse(text: String) -> Result<Cursor, &'static str> {
    let inside = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (expires_ms, place) = text.split_once(':')?;
        // Times are signed where they are kept.
        let expires_ms = expires_ms.parse::<i64>().ok()?.try_into().ok()?;
        Some(Cursor { expires_ms, place: place.to_owned() })
    };
    inside().ok_or("it is none that this server made")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        let cursor = Cursor { expires_ms: 1_795_000_000_000, place: "-/team/é:x".into() };
        assert_eq!(parse(text(&cursor)), Ok(cursor));
        for text in ["", "!", "YQ", "OjE", "LTE6YQ"] {
            assert!(parse(text.into()).is_err(), "{text}");
        }
    }
}
