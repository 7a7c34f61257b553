use std::sync::OnceLock;

use comfy_table::{Table, presets::NOTHING};
use jiff::Timestamp;
use serde::Serialize;

use crate::exit::{self, Exit};

/// How the process is to end because its output was lost.
static LOST: OnceLock<Exit> = OnceLock::new();

/// Prints results: tables for people, JSON for scripts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub is_json: bool,
}

/// What can be shown as a row of a table.
pub(super) trait Shown: Serialize {
    const HEADINGS: &'static [&'static str];

    fn row(&self) -> Vec<String>;
}

impl Output {
    pub(super) fn list<T: Shown>(self, items: &[T]) {
        if self.is_json {
            return print_json(&items);
        }
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(T::HEADINGS.iter().map(|heading| heading.to_uppercase()));
        table.add_rows(items.iter().map(Shown::row));
        print(&table.trim_fmt());
    }

    /// One item, a line for each of its fields.
    pub(super) fn show<T: Shown>(self, item: &T) {
        if self.is_json {
            return print_json(item);
        }
        let width = T::HEADINGS.iter().map(|heading| heading.len()).max().unwrap_or_default();
        for (heading, value) in T::HEADINGS.iter().zip(item.row()) {
            print(&format!("{heading:width$}  {value}"));
        }
    }

    /// Something made, which is shown as `item` to scripts and in words to
    /// people.
    pub(super) fn made(self, item: &impl Serialize, words: &str) {
        if self.is_json { print_json(item) } else { print(words) }
    }

    pub(super) fn done(self, words: &str) {
        self.made(&serde_json::json!({ "done": true }), words);
    }
}

/// How the process is to end, if its output could not be written.
pub(super) fn lost() -> Option<Exit> {
    LOST.get().copied()
}

fn print(line: &str) {
    if LOST.get().is_none()
        && let Err(exit) = exit::print(&format!("{line}\n"))
    {
        let _ = LOST.set(exit);
    }
}

fn print_json(value: &impl Serialize) {
    print(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// A time for people, `-` for none.
pub(super) fn time(ms: Option<i64>) -> String {
    match ms.map(Timestamp::from_millisecond) {
        Some(Ok(time)) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        _ => "-".into(),
    }
}
