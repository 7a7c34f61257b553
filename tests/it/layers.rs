//! Holds the lines of the house: which room may name which, which crate and
//! which word belongs to one room alone, and how long scripts get.
//!
//! It reads the sources word by word and knows little of Rust: paths that begin
//! with `crate`, `super` or a crate's name, and what `use` makes of braces.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each room, and the rooms that it may name.
const ROOMS: &[(&str, &[&str])] = &[
    ("lock", &[]),
    ("config", &["lock"]),
    ("telemetry", &["config"]),
    ("boot_time", &[]),
    ("exit", &[]),
    ("mends", &[]),
    ("store", &["config", "lock", "mends", "boot_time"]),
    ("accounts", &["config", "store", "lock"]),
    ("limits", &["config", "store", "lock"]),
    ("locks", &["store", "lock", "mends"]),
    ("app", &["accounts", "config", "limits", "lock", "locks"]),
    ("http", &["accounts", "app", "limits", "lock", "locks"]),
    ("web", &["accounts", "app", "http", "limits", "lock", "locks"]),
    ("server", &["accounts", "app", "config", "http", "store", "limits", "lock", "locks", "telemetry", "web"]),
    ("operator", &["accounts", "config", "exit", "lock"]),
    ("client", &["lock", "boot_time"]),
    ("cli", &["client", "exit", "lock"]),
    ("main", &["cli", "config", "exit", "operator", "server", "telemetry"]),
];

/// Single files that may name one room more, and why.
const WAIVED: &[(&str, &str, &str)] = &[
    ("http/problem.rs", "store", "every error of the rooms below is turned into an answer here"),
    ("web/error.rs", "store", "every error of the rooms below is turned into a page here"),
];

/// Words that only files whose paths begin like this may have: crates that one
/// room hides from the others, and what only HTTP knows.
const OWNED: &[(&str, &[&str])] = &[
    ("redis::", &["store/redis"]),
    ("deadpool_redis::", &["store/redis"]),
    ("mlua::", &["store/embedded"]),
    ("sqlx::", &["accounts"]),
    ("argon2::", &["accounts/password"]),
    ("rcgen::", &["operator/dev_cert"]),
    ("opentelemetry_otlp::", &["telemetry/traces"]),
    ("tracing_subscriber::", &["telemetry"]),
    ("StatusCode", &["http", "web"]),
    ("askama::", &["web"]),
];

/// A script does one thing. Its header is not counted, which may be long.
const SCRIPT_LINES_MAX: usize = 80;

#[test]
fn rooms_name_only_those_below_them() {
    let mut faults = Vec::new();
    for file in sources("src", "rs").iter().filter(|file| file.path != "lib.rs") {
        let room = file.room();
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            faults.push(format!("{}: no line in ROOMS says whom `{room}` may name", file.path));
            continue;
        };
        let named = file.rooms_named();
        let is_waived = |named: &str| WAIVED.iter().any(|(path, waived, _)| (*path, *waived) == (&file.path, named));
        let is_allowed = |named: &str| named == room || allowed.contains(&named) || is_waived(named);
        let strangers = named.iter().filter(|named| !is_allowed(named));
        faults.extend(strangers.map(|stranger| format!("{}: `{room}` names `{stranger}`", file.path)));
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn crates_and_words_stay_in_their_rooms() {
    let mut faults = Vec::new();
    for file in sources("src", "rs") {
        let is_at = |homes: &[&str]| homes.iter().any(|home| file.path.starts_with(home));
        for (word, homes) in OWNED.iter().filter(|(_, homes)| !is_at(homes)) {
            let segments: Vec<_> = word.split("::").filter(|segment| !segment.is_empty()).collect();
            let is_crate = word.contains("::");
            let names = |path: &Vec<String>| match is_crate {
                true => path.len() > 1 && segments.iter().eq(path.iter().take(segments.len())),
                false => path.iter().any(|segment| segment == word),
            };
            // A module of this name next door hides the crate.
            if !(is_crate && file.declares(segments[0])) && file.paths().iter().any(names) {
                faults.push(format!("{}: `{word}` belongs to {}", file.path, homes.join(", ")));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn scripts_are_short_and_say_what_they_take_and_return() {
    let scripts = sources("lua", "lua");
    assert!(!scripts.is_empty(), "there are no scripts");
    let mut faults = Vec::new();
    for script in scripts {
        let header: Vec<_> = script.text.lines().take_while(|line| line.starts_with("--")).collect();
        let code = script.text.lines().count() - header.len();
        if code > SCRIPT_LINES_MAX {
            faults.push(format!("{}: {code} lines of code", script.path));
        }
        let header = header.join("\n");
        for (in_code, in_header) in [("KEYS[", "KEYS["), ("ARGV[", "ARGV["), ("\nreturn ", "eturns")] {
            if script.text.contains(in_code) && !header.contains(in_header) {
                faults.push(format!("{}: the header does not say `{in_header}`", script.path));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}

struct Source {
    /// Below the folder that was asked for.
    path: String,
    text: String,
    words: Vec<String>,
}

/// All files in a folder of the crate, and below it, with this extension.
fn sources(folder: &str, extension: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    let source = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        Source { words: words(&text), path, text }
    };
    files.into_iter().map(source).collect()
}

impl Source {
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many modules deep the file is.
    fn depth(&self) -> usize {
        self.path.split('/').count()
    }

    fn declares(&self, module: &str) -> bool {
        self.words.windows(2).any(|pair| pair[0] == "mod" && pair[1] == module)
    }

    fn rooms_named(&self) -> BTreeSet<String> {
        let is_room = |name: &String| ROOMS.iter().any(|(room, _)| room == name);
        let named = self.paths().into_iter().filter_map(|path| {
            let ups = path.iter().take_while(|segment| *segment == "super").count();
            let from_root = match path[0].as_str() {
                "crate" | "lockable" => &path[1..],
                // The deepest module of a file is that of its tests.
                "super" if ups >= self.depth() => &path[ups..],
                _ => &[],
            };
            from_root.first().cloned()
        });
        named.filter(is_room).collect()
    }

    /// All paths in the file, those in the braces of a `use` written out.
    fn paths(&self) -> Vec<Vec<String>> {
        let mut paths = Vec::new();
        let mut prefixes: Vec<Vec<String>> = vec![Vec::new()];
        let mut path: Vec<String> = Vec::new();
        let mut in_use = false;
        for pair in self.words.windows(2) {
            let (word, next) = (&pair[0], &pair[1]);
            let is_name = word.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            match word.as_str() {
                "use" => in_use = true,
                "::" => {}
                "{" if in_use => prefixes.push([prefixes.last().unwrap().clone(), std::mem::take(&mut path)].concat()),
                "}" if in_use => _ = prefixes.pop(),
                ";" => in_use = false,
                _ if is_name => path.push(word.clone()),
                _ => path.clear(),
            }
            if is_name && next != "::" && *word != "use" && !path.is_empty() {
                paths.push([prefixes.last().unwrap().clone(), std::mem::take(&mut path)].concat());
            }
        }
        paths
    }
}

/// The words of a source: names, `::`, and signs one by one; without comments
/// and what stands between quotation marks.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_in_name = |c: char| c.is_alphanumeric() || c == '_';
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            quoted(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("::") {
            2
        } else if is_in_name(first) {
            rest.find(|c| !is_in_name(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at(length);
        if !(word.starts_with("//") || word.starts_with('"') || word.trim().is_empty()) {
            words.push(word.to_owned());
        }
        rest = after;
    }
    words
}

/// The length of the text in quotation marks with which `rest` begins.
fn quoted(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !is_escaped => return at + 1,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    rest.len()
}

#[test]
fn this_reader_sees_paths() {
    let text = r#"
        use crate::{app::App, lock::{Lease, Owner}}; // use crate::nothing;
        use super::super::locks;
        pub use self::{redis::Redis, other};
        fn f() -> crate::http::Answer { sqlx::query("use crate::quoted \" still::quoted"); a.b::<redis::Cmd>() }
    "#;
    let source = Source { path: "accounts/token.rs".into(), text: text.into(), words: words(text) };
    let named: Vec<_> = source.rooms_named().into_iter().collect();
    assert_eq!(named, ["app", "http", "lock", "locks"]);
    let paths: Vec<_> = source.paths().iter().map(|path| path.join("::")).collect();
    for expected in ["crate::lock::Owner", "self::redis::Redis", "sqlx::query", "redis::Cmd"] {
        assert!(paths.iter().any(|path| path == expected), "{expected} is not in {paths:?}");
    }
    assert!(!paths.iter().any(|path| path.contains("quoted") || path.contains("nothing")), "{paths:?}");
}
