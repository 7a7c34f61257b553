use std::{io, net::SocketAddr};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::{net::TcpListener, time::interval};

/// Returns the socket that systemd passes, otherwise binds `address`. A socket of systemd stays
/// open while the server restarts, and a port below 1024 needs no privilege.
pub(super) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match ListenFd::from_env().take_tcp_listener(0)? {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        }
        None => TcpListener::bind(address).await,
    }
}

/// Notifies systemd that the server is ready, then sends watchdog notifications at half of the
/// requested interval. Does nothing without systemd.
pub(super) fn serving() {
    notify(NotifyState::Ready);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(async move {
            let mut tick = interval(limit / 2);
            loop {
                tick.tick().await;
                notify(NotifyState::Watchdog);
            }
        });
    }
}

/// Notifies systemd that the server is stopping.
pub(super) fn stopping() {
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
