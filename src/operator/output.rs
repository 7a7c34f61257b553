use std::sync::OnceLock;

use comfy_table::{Table, presets::NOTHING};
use jiff::Timestamp;
use lockable_cli::exit::{self, Exit};
use serde::Serialize;

/// The exit status after a write to standard output failed.
static WRITE_FAILURE: OnceLock<Exit> = OnceLock::new();

/// Prints results: tables, or JSON with `--json`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Printer {
    pub is_json: bool,
}

/// A result that can be printed as a row of a table.
pub(super) trait TableRow: Serialize {
    const HEADINGS: &'static [&'static str];

    fn row(&self) -> Vec<String>;
}

impl Printer {
    pub(super) fn list<T: TableRow>(self, items: &[T]) {
        if self.is_json {
            return print_json(&items);
        }
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(T::HEADINGS.iter().map(|heading| heading.to_uppercase()));
        table.add_rows(items.iter().map(TableRow::row));
        print(&table.trim_fmt());
    }

    /// Prints one item, one line per field.
    pub(super) fn show<T: TableRow>(self, item: &T) {
        if self.is_json {
            return print_json(item);
        }
        let width = T::HEADINGS.iter().map(|heading| heading.len()).max().unwrap_or_default();
        for (heading, value) in T::HEADINGS.iter().zip(item.row()) {
            print(&format!("{heading:width$}  {value}"));
        }
    }

    /// Prints a created object: `item` as JSON, or `text`.
    pub(super) fn created(self, item: &impl Serialize, text: &str) {
        if self.is_json { print_json(item) } else { print(text) }
    }

    pub(super) fn done(self, text: &str) {
        self.created(&serde_json::json!({ "done": true }), text);
    }
}

/// Returns the exit status if writing to standard output has failed.
pub(super) fn write_failure() -> Option<Exit> {
    WRITE_FAILURE.get().copied()
}

fn print(line: &str) {
    if WRITE_FAILURE.get().is_none()
        && let Err(exit) = exit::print(&format!("{line}\n"))
    {
        let _ = WRITE_FAILURE.set(exit);
    }
}

fn print_json(value: &impl Serialize) {
    print(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Formats milliseconds since 1970; `-` for none.
pub(super) fn time(ms: Option<i64>) -> String {
    match ms.map(Timestamp::from_millisecond) {
        Some(Ok(time)) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        _ => "-".into(),
    }
}
