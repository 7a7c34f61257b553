use std::{fs, io};

use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{self, SignalKind},
    sync::mpsc,
};

const PASSED_ON: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// The signals that are for the command.
pub(super) struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// Listens to all of them but those that are ignored, as by `nohup`: these are
    /// the command's to be ignored, too.
    pub fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let (sender, receiver) = mpsc::unbounded_channel();
        for signal in PASSED_ON.into_iter().filter(|signal| ignored & (1 << (*signal as i32 - 1)) == 0) {
            let mut stream = unix::signal(SignalKind::from_raw(signal as i32))?;
            let sender = sender.clone();
            tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(signal).is_ok() {} });
        }
        Ok(Self(receiver))
    }

    pub async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// The next that asks a program to end.
    pub async fn ending(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if !matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2) {
                return signal;
            }
        }
    }
}

/// The signals that this process was started to ignore, one bit for each. Known
/// on Linux alone.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
