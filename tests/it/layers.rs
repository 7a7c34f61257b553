//! The architecture: allowed dependencies between modules, crates and types that only one module
//! may use, and the length and header of scripts.
//!
//! The test splits the sources into words instead of parsing Rust. It understands paths that begin
//! with `crate`, `super` or the name of a crate, and the braces of `use`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each module, and the modules that it may depend on.
const MODULES: &[(&str, &[&str])] = &[
    ("lock", &[]),
    ("config", &["lock"]),
    ("telemetry", &["config"]),
    ("safeguards", &[]),
    ("store", &["config", "lock", "safeguards"]),
    ("accounts", &["config", "store", "lock"]),
    ("limits", &["config", "store", "lock"]),
    ("locks", &["store", "lock", "safeguards"]),
    ("app", &["accounts", "config", "limits", "lock", "locks"]),
    ("http", &["accounts", "app", "limits", "lock", "locks"]),
    ("web", &["accounts", "app", "http", "limits", "lock", "locks"]),
    ("server", &["accounts", "app", "config", "http", "store", "limits", "lock", "locks", "telemetry", "web"]),
    ("operator", &["accounts", "config", "lock"]),
    ("main", &["config", "operator", "server", "telemetry"]),
];

/// Files that may depend on one more module, with the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("http/problem.rs", "store", "converts the errors of all lower modules to problems"),
    ("web/error.rs", "store", "converts the errors of all lower modules to pages"),
];

/// Crates and types that only files with these path prefixes may use: crates that a module hides
/// from the others, and types of HTTP.
const RESTRICTED: &[(&str, &[&str])] = &[
    ("lockable_cli::", &["main", "operator"]),
    ("lockable_protocol::", &["lock"]),
    ("lockable_resp::", &["store"]),
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

/// The maximum number of lines of a script, without its header comment: a script does one thing.
const SCRIPT_LINES_MAX: usize = 80;

#[test]
fn modules_depend_only_on_allowed_modules() {
    let mut faults = Vec::new();
    for file in sources("src", "rs").iter().filter(|file| file.path != "lib.rs") {
        let module = file.module();
        let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
            faults.push(format!("{}: MODULES has no entry for `{module}`", file.path));
            continue;
        };
        let used = file.used_modules();
        let is_exception = |used: &str| EXCEPTIONS.iter().any(|(path, more, _)| (*path, *more) == (&file.path, used));
        let is_allowed = |used: &str| used == module || allowed.contains(&used) || is_exception(used);
        let forbidden = used.iter().filter(|used| !is_allowed(used));
        faults.extend(forbidden.map(|used| format!("{}: `{module}` must not use `{used}`", file.path)));
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn only_their_modules_use_restricted_crates_and_types() {
    let mut faults = Vec::new();
    for file in sources("src", "rs") {
        let is_in = |prefixes: &[&str]| prefixes.iter().any(|prefix| file.path.starts_with(prefix));
        for (word, prefixes) in RESTRICTED.iter().filter(|(_, prefixes)| !is_in(prefixes)) {
            let segments: Vec<_> = word.split("::").filter(|segment| !segment.is_empty()).collect();
            let is_crate = word.contains("::");
            let names = |path: &Vec<String>| match is_crate {
                true => path.len() > 1 && segments.iter().eq(path.iter().take(segments.len())),
                false => path.iter().any(|segment| segment == word),
            };
            // A submodule with this name shadows the crate.
            if !(is_crate && file.declares(segments[0])) && file.paths().iter().any(names) {
                faults.push(format!("{}: only {} may use `{word}`", file.path, prefixes.join(", ")));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn scripts_are_short_and_document_their_arguments_and_replies() {
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
                faults.push(format!("{}: the header does not contain `{in_header}`", script.path));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}

struct Source {
    /// The path below the searched folder.
    path: String,
    text: String,
    words: Vec<String>,
}

/// All files with this extension below a folder of the crate.
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
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The depth of the file in the module tree; 1 for a top-level module.
    fn depth(&self) -> usize {
        self.path.split('/').count()
    }

    fn declares(&self, module: &str) -> bool {
        self.words.windows(2).any(|pair| pair[0] == "mod" && pair[1] == module)
    }

    /// The top-level modules that the file's paths name.
    fn used_modules(&self) -> BTreeSet<String> {
        let is_module = |name: &String| MODULES.iter().any(|(module, _)| module == name);
        let named = self.paths().into_iter().filter_map(|path| {
            let ups = path.iter().take_while(|segment| *segment == "super").count();
            let from_root = match path[0].as_str() {
                "crate" | "lockable" => &path[1..],
                // The test module of the file is one level deeper than the file.
                "super" if ups >= self.depth() => &path[ups..],
                _ => &[],
            };
            from_root.first().cloned()
        });
        named.filter(is_module).collect()
    }

    /// All paths in the file, with the braces of `use` expanded.
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

/// Splits a source into words: names, `::`, and single punctuation characters, without comments and
/// string literals.
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

/// The length of the string literal at the start of `rest`.
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
fn paths_in_sources_are_found() {
    let text = r#"
        use crate::{app::App, lock::{Lease, Owner}}; // use crate::nothing;
        use super::super::locks;
        pub use self::{redis::Redis, other};
        fn f() -> crate::http::Answer { sqlx::query("use crate::quoted \" still::quoted"); a.b::<redis::Cmd>() }
    "#;
    let source = Source { path: "accounts/token.rs".into(), text: text.into(), words: words(text) };
    let named: Vec<_> = source.used_modules().into_iter().collect();
    assert_eq!(named, ["app", "http", "lock", "locks"]);
    let paths: Vec<_> = source.paths().iter().map(|path| path.join("::")).collect();
    for expected in ["crate::lock::Owner", "self::redis::Redis", "sqlx::query", "redis::Cmd"] {
        assert!(paths.iter().any(|path| path == expected), "{expected} is not in {paths:?}");
    }
    assert!(!paths.iter().any(|path| path.contains("quoted") || path.contains("nothing")), "{paths:?}");
}
