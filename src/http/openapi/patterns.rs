//! Regular expressions that accept exactly what the parsers accept.
//!
//! The dialect is ECMA-262 with the flag `u`, as in JSON Schema, restricted to the syntax that Python
//! and Rust share: no `\p{…}`, and characters beyond the basic plane unescaped.

use std::{fmt::Write, iter};

use crate::lock::{DURATION_MS_MAX, is_invisible, is_unprintable};

/// A lock name.
pub(super) fn name() -> String {
    let hidden = ranges(|c| c != ' ' && is_invisible(c));
    // No segment is empty, "." or "..".
    let segment = format!(r"(?:\.{{0,2}}[^./{hidden}]|\.{{3}})[^/{hidden}]*");
    format!("^(?! ){segment}(?:/{segment})*(?<! )$")
}

/// An owner.
pub(super) fn owner() -> String {
    format!("^[^{}]+$", ranges(is_invisible))
}

/// A note.
pub(super) fn note() -> String {
    format!("^[^{}]*$", ranges(is_unprintable))
}

/// A namespace name.
pub(super) fn namespace() -> String {
    "^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$".into()
}

/// A duration of any length.
pub(super) fn duration() -> String {
    duration_up_to(DURATION_MS_MAX)
}

/// A duration of at most `max_ms`: a whole number of seconds, or a number with a unit and up to three
/// decimals (none for `ms`).
pub(super) fn duration_up_to(max_ms: u64) -> String {
    let mut forms = vec![format!("{}ms", at_most(max_ms)), at_most(max_ms / 1000)];
    for (unit, unit_ms) in [("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)] {
        let (whole, thousandths) = (max_ms / unit_ms, max_ms % unit_ms * 1000 / unit_ms);
        let below = whole.checked_sub(1).map(|below| format!(r"{}(?:\.[0-9]{{1,3}})?", at_most(below)));
        let most = format!(r"{whole}(?:\.{})?", decimals_at_most(thousandths));
        let either = below.into_iter().chain(iter::once(most)).collect::<Vec<_>>().join("|");
        forms.push(format!("(?:{either}){unit}"));
    }
    format!("^0*(?:{})$", forms.join("|"))
}

/// A number from 1 to `max`, with any leading zeros.
pub(super) fn positive(max: u64) -> String {
    format!("^0*{}$", digits_from('1', max))
}

/// A number from 0 to `max`.
fn at_most(max: u64) -> String {
    digits_from('0', max)
}

fn digits_from(least: char, max: u64) -> String {
    let digits = max.to_string();
    let mut forms = Vec::new();
    if digits.len() > 1 {
        // Fewer digits.
        forms.push(match least {
            '1' => format!("[1-9][0-9]{{0,{}}}", digits.len() - 2),
            _ => format!("[0-9]{{1,{}}}", digits.len() - 1),
        });
    }
    // Equal length: a common prefix, one smaller digit, any digits.
    let mut before = String::new();
    for (at, digit) in digits.chars().enumerate() {
        let least = if at == 0 { least } else { '0' };
        if let Some(smaller) = smaller_than(digit, least) {
            forms.push(format!("{before}{smaller}{}", repeated(digits.len() - at - 1)));
        }
        before.push(digit);
    }
    forms.push(before);
    format!("(?:{})", forms.join("|"))
}

/// One to three decimals of at most `thousandths`.
fn decimals_at_most(thousandths: u64) -> String {
    let digits = format!("{thousandths:03}");
    let (mut forms, mut before) = (Vec::new(), String::new());
    for (at, digit) in digits.chars().enumerate() {
        if let Some(smaller) = smaller_than(digit, '0') {
            forms.push(format!("{before}{smaller}[0-9]{{0,{}}}", 2 - at));
        }
        before.push(digit);
        forms.push(before.clone());
    }
    format!("(?:{})", forms.join("|"))
}

fn smaller_than(digit: char, least: char) -> Option<String> {
    let below = char::from_u32(u32::from(digit) - 1)?;
    (below >= least).then(|| if below == least { below.to_string() } else { format!("[{least}-{below}]") })
}

fn repeated(count: usize) -> String {
    if count == 0 { String::new() } else { format!("[0-9]{{{count}}}") }
}

/// The ranges of a character class, without the brackets.
fn ranges(is_of_kind: impl Fn(char) -> bool) -> String {
    let mut text = String::new();
    let mut all = ('\0'..=char::MAX).peekable();
    while let Some(first) = all.find(|c| is_of_kind(*c)) {
        let mut last = first;
        while let Some(next) = all.next_if(|c| is_of_kind(*c)) {
            last = next;
        }
        text.push_str(&escaped(first));
        if last != first {
            text.push('-');
            text.push_str(&escaped(last));
        }
    }
    text
}

fn escaped(c: char) -> String {
    let mut text = String::new();
    match u32::from(c) {
        // Writing to a string cannot fail.
        code @ 0..=0xFFFF => _ = write!(text, r"\u{code:04X}"),
        _ => text.push(c),
    }
    text
}

#[cfg(test)]
mod tests {
    use regex_lite::Regex;

    use super::*;
    use crate::lock::parse_duration_ms;

    #[test]
    fn duration_pattern_accepts_exactly_what_the_parser_accepts() {
        let units = ["", "ms", "s", "m", "h", "d"];
        for max_ms in [0, 1, 500, 999, 1000, 1001, 55_000, 61_500, 90_061_001, DURATION_MS_MAX] {
            let pattern = Regex::new(&duration_up_to(max_ms)).unwrap();
            let around =
                units.iter().zip([1000, 1, 1000, 60_000, 3_600_000, 86_400_000]).flat_map(|(unit, unit_ms)| {
                    let whole = max_ms / unit_ms;
                    let wholes = whole.saturating_sub(2)..=whole + 2;
                    wholes.flat_map(move |whole| {
                        let decimals = ["", ".", ".0", ".5", ".05", ".50", ".501", ".999", ".042", ".0001"];
                        decimals.map(|decimals| format!("{whole}{decimals}{unit}"))
                    })
                });
            let odd =
                ["", "s", "-1", "+1", "1 s", "1e3", "007", "00.5s", "0000000000000000000m", "1.2.3s", "1S", "٣", "1\n"];
            for text in around.chain(odd.map(str::to_owned)) {
                let is_taken = parse_duration_ms(&text).is_ok_and(|ms| ms <= max_ms);
                assert_eq!(pattern.is_match(&text), is_taken, "{text:?} of {max_ms}");
            }
        }
    }

    #[test]
    fn number_pattern_accepts_exactly_the_range() {
        let pattern = Regex::new(&positive(9_007_199_254_740_991)).unwrap();
        for text in ["1", "9", "10", "0001", "9007199254740991", "8999999999999999", "9007199254739999"] {
            assert!(pattern.is_match(text), "{text}");
        }
        for text in ["", "0", "000", "-1", "9007199254740992", "9010000000000000", "10000000000000000"] {
            assert!(!pattern.is_match(text), "{text}");
        }
    }
}
