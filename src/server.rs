//! The server: puts the parts together, listens, and drains.

mod accept;
mod admin;
mod bootstrap;
mod eviction;
mod first_account;
mod instance_lock;
mod notice;
#[cfg(not(fuzzing))]
mod proxy;
#[cfg(fuzzing)]
pub mod proxy;
mod split_stream;
mod systemd;
mod timeouts;
mod tls;
mod workers;

use anyhow::Context;
use metrics::gauge;
use tokio::{
    net::TcpListener,
    runtime,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{config::ServeSettings, http, telemetry::Metrics, web};

pub use self::{
    accept::{HEAD_BYTES_MAX, serve},
    timeouts::IDLE_TIMEOUT,
    tls::{RELOAD_INTERVAL, Tls, TlsError},
    workers::Workers,
};

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// When a part cannot start, in words for the operator.
pub fn main(settings: ServeSettings) -> anyhow::Result<()> {
    // Each connection is a file; systems let a process have many, but not unasked.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the number of files that may be open stays as it is");
    }
    refuse_huge_pages();
    // Connections have threads of their own; this is for what goes on beside them.
    let mut runtime = runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let signalled = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("draining");
            systemd::stopping();
            signalled.cancel();
        });
        let address = settings.listen.listen;
        let listener = systemd::listen(address).await.with_context(|| format!("cannot listen on {address}"))?;
        run(&settings, listener, shutdown).await
    })
}

/// Has the system give memory in small pages. A connection has two buffers, and uses
/// a part of each: with huge pages all of both would be in memory, half as much again
/// as a connection takes.
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "memory comes in huge pages where the system likes that");
    }
}

/// Serves on `listener` until `shutdown`, then drains.
///
/// # Errors
/// When a part cannot start, in words for the operator.
pub async fn run(settings: &ServeSettings, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    check(settings)?;
    let tls = Tls::load(&settings.listen.tls)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let address = listener.local_addr().context("the listener has no address")?;
    // Requests that are finished while draining still need what runs beside them.
    let drained = CancellationToken::new();
    // Balancers take a while to notice that a server is leaving.
    let closing = CancellationToken::new();
    tokio::spawn({
        let (shutdown, closing, delay) = (shutdown.clone(), closing.clone(), settings.admin.shutdown_delay);
        async move {
            shutdown.cancelled().await;
            tokio::time::sleep(delay).await;
            closing.cancel();
        }
    });
    // Before anything is counted.
    let metrics = settings.admin.admin_listen.map(|_| Metrics::begin()).transpose().context("cannot measure")?;
    let workers = Workers::start(settings.listen.workers()).context("cannot start threads")?;
    let pages = Workers::start_for_pages().context("cannot start threads")?;
    let parts = bootstrap::start(settings, address, &workers, &pages, &closing, &drained).await?;
    if let Some(first) = &parts.first {
        let here = format!("{scheme}://{}", first_account::nearby(address));
        first.hand_over(settings, &settings.page.public.origin().unwrap_or(here));
    }
    let admin = admin::start(&settings.admin, &settings.listen, metrics, &parts.app, &shutdown, &drained).await?;
    gauge!("lockable_connections_max").set(settings.listen.connections);
    tracing::info!(%address, scheme, "listening");
    systemd::serving();
    let service = http::service(&parts.app, web::routes(&parts.app));
    serve(listener, service, &workers, &settings.listen, tls, closing).await;
    parts.app.releases.finish().await;
    parts.app.locks.finish().await;
    drained.cancel();
    parts.background.close();
    parts.background.wait().await;
    admin.wait().await;
    parts.store.leave();
    workers.stop().await;
    pages.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Finds settings that do not go together, before anything is started.
///
/// # Errors
/// One line that says what to change.
pub fn check(settings: &ServeSettings) -> anyhow::Result<()> {
    Tls::load(&settings.listen.tls)?;
    bootstrap::check(settings)
}
