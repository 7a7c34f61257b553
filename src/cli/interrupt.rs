use std::{fs, io};

use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{self, SignalKind},
    sync::mpsc,
};

/// The signals that ask a program to end.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Catches the signals that ask this process to end, except those that its caller has set to be
/// ignored.
pub(super) struct Interrupts(mpsc::UnboundedReceiver<Signal>);

impl Interrupts {
    pub fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let (sender, receiver) = mpsc::unbounded_channel();
        for signal in ENDING.into_iter().filter(|signal| ignored & (1 << (*signal as i32 - 1)) == 0) {
            let mut stream = unix::signal(SignalKind::from_raw(signal as i32))?;
            let sender = sender.clone();
            tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(signal).is_ok() {} });
        }
        Ok(Self(receiver))
    }

    pub async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            // All of these signals are ignored.
            None => std::future::pending().await,
        }
    }
}

/// The signals that the caller has set to be ignored, one bit each. Empty outside Linux.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
