/// The number of the layout of keys and values, and of the one before.
const LAYOUT: &str = "2";
const FORMER_LAYOUT: &str = "1";

pub(super) fn key(prefix: &str, tag: &str, kind: &str, rest: &str) -> String {
    let mut key = String::new();
    write_key(&mut key, prefix, tag, kind, rest);
    key
}

pub(super) fn former_key(prefix: &str, tag: &str, kind: &str, rest: &str) -> String {
    let mut key = String::new();
    write(&mut key, FORMER_LAYOUT, prefix, tag, kind, rest);
    key
}

pub(super) fn write_key(text: &mut String, prefix: &str, tag: &str, kind: &str, rest: &str) {
    write(text, LAYOUT, prefix, tag, kind, rest);
}

fn write(text: &mut String, layout: &str, prefix: &str, tag: &str, kind: &str, rest: &str) {
    // By hand: requests have many keys, and formatting costs more.
    for part in [prefix, ":", layout, ":{", tag, "}:", kind, ":", rest] {
        text.push_str(part);
    }
}
