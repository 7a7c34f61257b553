//! Terminal settings, which a killed command cannot restore.

use std::io::{self, IsTerminal};

use nix::{
    sys::termios::{SetArg, Termios, tcgetattr, tcsetattr},
    unistd::{getpgrp, tcgetpgrp},
};

/// The settings at the start of a run.
pub(super) struct Terminal(Termios);

impl Terminal {
    /// `None` unless both input and output are a terminal: in a pipeline, a pager at the other end may
    /// change the settings, too.
    pub fn save() -> Option<Self> {
        let is_ours = io::stdin().is_terminal() && io::stdout().is_terminal();
        is_ours.then(|| tcgetattr(io::stdin()).ok().map(Self)).flatten()
    }

    /// Restores the settings if this process group is in the foreground.
    pub fn restore(&self) {
        if tcgetpgrp(io::stdin()) == Ok(getpgrp()) {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
        }
    }
}
