/// The layout number of keys and values. Servers of another layout ignore these keys.
const LAYOUT: &str = "1";

pub(super) fn key(prefix: &str, tag: &str, kind: &str, rest: &str) -> String {
    let mut key = String::new();
    write_key(&mut key, prefix, tag, kind, rest);
    key
}

pub(super) fn write_key(text: &mut String, prefix: &str, tag: &str, kind: &str, rest: &str) {
    // Without `format!`, which is slower: a request has many keys.
    for part in [prefix, ":", LAYOUT, ":{", tag, "}:", kind, ":", rest] {
        text.push_str(part);
    }
}
