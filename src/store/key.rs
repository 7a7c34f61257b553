/// The number of the layout of keys and values. Servers with another one ignore these keys.
const LAYOUT: &str = "1";

pub(super) fn key(prefix: &str, tag: &str, kind: &str, rest: &str) -> String {
    let mut key = String::new();
    write_key(&mut key, prefix, tag, kind, rest);
    key
}

pub(super) fn write_key(text: &mut String, prefix: &str, tag: &str, kind: &str, rest: &str) {
    // By hand: requests have many keys, and formatting costs more.
    for part in [prefix, ":", LAYOUT, ":{", tag, "}:", kind, ":", rest] {
        text.push_str(part);
    }
}
