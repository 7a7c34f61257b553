//! A line at the end of a terminal that is redrawn.

use std::{
    cell::Cell,
    env,
    io::{self, IsTerminal, Write},
};

use nix::unistd::{getpgrp, tcgetpgrp};
use terminal_size::{Width, terminal_size_of};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::sanitized;

/// The width of a terminal that does not report it.
const WIDTH_DEFAULT: usize = 80;
const CUT: &str = "...";

/// Standard error, if it is a terminal.
pub(super) struct StatusLine {
    is_terminal: bool,
    is_drawn: Cell<bool>,
}

impl StatusLine {
    pub fn new() -> Self {
        let is_dumb = env::var_os("TERM").is_some_and(|kind| kind == "dumb");
        Self { is_terminal: io::stderr().is_terminal() && !is_dumb, is_drawn: Cell::new(false) }
    }

    /// Whether this process may draw: a background job would overwrite the foreground job's output.
    pub fn is_in_foreground(&self) -> bool {
        self.is_terminal && tcgetpgrp(io::stderr()).is_ok_and(|group| group == getpgrp())
    }

    /// Replaces the line, cut to the terminal's width. The cursor stays at its start: if the terminal
    /// becomes narrower and wraps the line, the next draw clears everything below the cursor.
    pub fn draw(&self, text: &str) {
        let width = terminal_size_of(io::stderr()).map(|(Width(width), _)| usize::from(width));
        let width = width.filter(|width| *width > 0).unwrap_or(WIDTH_DEFAULT);
        let line = sanitized(&format!("lockable: {text}")).replace(['\n', '\t'], " ");
        // Some terminals wrap after the last column.
        write(&format!("\r\x1b[J{}\r", cut(&line, width - 1)));
        self.is_drawn.set(true);
    }

    fn erase(&self) {
        if self.is_drawn.take() {
            write("\r\x1b[J");
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.erase();
    }
}

fn write(text: &str) {
    let mut terminal = io::stderr();
    let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
}

/// Cuts a line to `width` columns.
fn cut(line: &str, width: usize) -> String {
    if line.width() <= width {
        return line.to_owned();
    }
    let mut columns = 0;
    let fits = |c: &char| {
        columns += c.width().unwrap_or_default();
        columns + CUT.len() <= width
    };
    let mut cut: String = line.chars().take_while(fits).collect();
    cut.push_str(CUT);
    cut.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_counts_columns_and_keeps_characters_whole() {
        for (line, width, expected) in [
            ("lockable", 8, "lockable"),
            ("lockable", 7, "lock..."),
            ("lockable", 2, ".."),
            ("", 0, ""),
            ("配置する", 8, "配置する"),
            ("配置する", 7, "配置..."),
            ("配置する", 6, "配..."),
            ("déjà vu", 6, "déj..."),
        ] {
            assert_eq!(cut(line, width), expected, "{line} {width}");
        }
    }
}
