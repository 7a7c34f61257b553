use std::io;

use clap::Command;
use clap_mangen::Man;

/// Renders the manual page of `lockable` or of the command at `path`, such as `["token",
/// "create"]`. `None` when there is no such command.
///
/// # Errors
/// Never: the page is written to memory.
pub fn manual(mut cli: Command, path: &[String]) -> Option<io::Result<Vec<u8>>> {
    // `build` sets the names of the commands.
    cli.build();
    let mut command = &cli;
    for name in path {
        command = command.find_subcommand(name).filter(|command| !command.is_hide_set())?;
    }
    let mut page = command.clone();
    if !path.is_empty() {
        let title: &'static str = format!("lockable-{}", path.join("-")).leak();
        page = page.name(title).display_name(title);
    }
    let usage = page.render_usage().to_string();
    Some(render(page, &usage))
}

fn render(command: Command, usage: &str) -> io::Result<Vec<u8>> {
    let has_options = command.get_arguments().any(|argument| !argument.is_hide_set());
    let has_commands = command.get_subcommands().any(|command| !command.is_hide_set());
    let has_more = command.get_after_help().is_some() || command.get_after_long_help().is_some();
    let has_version = command.get_version().is_some();
    let man = Man::new(command);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    page.extend_from_slice(synopsis(usage).as_bytes());
    man.render_description_section(&mut page)?;
    if has_options {
        man.render_options_section(&mut page)?;
    }
    if has_commands {
        man.render_subcommands_section(&mut page)?;
    }
    if has_more {
        man.render_extra_section(&mut page)?;
    }
    if has_version {
        man.render_version_section(&mut page)?;
    }
    Ok(ascii(&String::from_utf8_lossy(&page).replace(".SH EXTRA", ".SH NOTES")).into_bytes())
}

/// The usage as `--help` prints it: `clap_mangen` omits the required `--`.
fn synopsis(usage: &str) -> String {
    let lines = usage.trim_start_matches("Usage:").lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: String = lines.map(|line| format!("{}\n.br\n", line.replace('-', "\\-"))).collect();
    format!(".SH SYNOPSIS\n{lines}")
}

/// Escapes non-ASCII characters for groff, whatever encoding it expects.
fn ascii(page: &str) -> String {
    page.chars().map(|c| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) }).collect()
}
