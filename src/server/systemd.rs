use std::{io, net::SocketAddr};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::{net::TcpListener, time::interval};

/// The socket that systemd hands over, if it does, else one at `address`. With
/// systemd's the port is never closed while the server is replaced, and it needs
/// no privilege to have one below 1024.
pub(super) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match ListenFd::from_env().take_tcp_listener(0)? {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        }
        None => TcpListener::bind(address).await,
    }
}

/// Tells systemd that the server serves, and from then on, as often as it wants
/// to hear it, that it still works. Does nothing where nobody asks.
pub(super) fn serving() {
    tell(NotifyState::Ready);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(async move {
            let mut tick = interval(limit / 2);
            loop {
                tick.tick().await;
                tell(NotifyState::Watchdog);
            }
        });
    }
}

/// Tells systemd that the server is about to stop.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
