use clap::{Command, Subcommand};
use clap_complete::Shell;

use super::{completions::completions, manual::manual, print_message};
use crate::exit::{self, Exit};

/// The commands about the program itself.
#[derive(Debug, Subcommand)]
pub enum GeneralCommand {
    /// Print completions for a shell
    #[command(after_help = "\
Examples:
  lockable completions bash >/etc/bash_completion.d/lockable
  lockable completions zsh >/usr/local/share/zsh/site-functions/_lockable
  lockable completions fish >~/.config/fish/completions/lockable.fish")]
    Completions { shell: Shell },
    /// Print the manual page of lockable or of one of its commands
    #[command(after_help = "Example: lockable man run | man -l -")]
    Man {
        /// Name of the command, such as run or token create
        command: Vec<String>,
    },
    /// Print the version
    Version,
}

/// Executes a command about the program, whose command line is `cli`.
pub fn general(command: &GeneralCommand, mut cli: Command) -> Exit {
    match command {
        GeneralCommand::Completions { shell } => print(&completions(*shell, &mut cli)),
        GeneralCommand::Man { command } => match manual(cli, command) {
            Some(Ok(page)) => print(&page),
            Some(Err(error)) => {
                print_message(&error.to_string());
                Exit::FAILURE
            }
            None => {
                print_message(&format!("unknown command {:?}; see lockable --help", command.join(" ")));
                Exit::Code(2)
            }
        },
        GeneralCommand::Version => print(concat!("lockable ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()),
    }
}

fn print(bytes: &[u8]) -> Exit {
    exit::print_bytes(bytes).map_or_else(|exit| exit, |()| Exit::SUCCESS)
}
