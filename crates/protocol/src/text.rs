//! Character rules for the texts that clients send.

use icu_properties::{CodePointSetData, props::DefaultIgnorableCodePoint};

/// Whether `c` reorders the text around it: the Unicode bidirectional
/// embeddings, overrides and isolates (UAX #9, table 4).
pub(crate) fn is_bidi_override(c: char) -> bool {
    matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Whether `c` is invisible on screen: white space, controls, and the characters that Unicode
/// lists as ignorable (`Default_Ignorable_Code_Point`), with which different identifiers can
/// look the same.
pub fn is_invisible(c: char) -> bool {
    /// The braille pattern without a dot.
    const BRAILLE_BLANK: char = '\u{2800}';
    let ignorable = const { CodePointSetData::new::<DefaultIgnorableCodePoint>() };
    c.is_whitespace() || c.is_control() || c == BRAILLE_BLANK || is_bidi_override(c) || ignorable.contains(c)
}

/// Whether `c` is not allowed in a text that people read on one line.
pub fn is_unprintable(c: char) -> bool {
    c.is_control() || is_bidi_override(c) || matches!(c, '\u{2028}' | '\u{2029}')
}
