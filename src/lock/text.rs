//! Which characters may stand in the texts that clients send.

/// Whether `c` reorders the text around it: the Unicode bidirectional
/// embeddings, overrides and isolates (UAX #9, table 4).
pub(super) fn is_bidi_override(c: char) -> bool {
    matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Whether `c` leaves no mark on the screen: white space, controls, and the
/// zero-width and formatting characters with which two identifiers can look
/// the same and differ.
pub(super) fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || is_bidi_override(c)
        || matches!(c, '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

/// Whether `c` may not stand in a text that people read on one line.
pub(super) fn is_unprintable(c: char) -> bool {
    c.is_control() || is_bidi_override(c) || matches!(c, '\u{2028}' | '\u{2029}')
}
