//! The server: starts the components, serves, and shuts down gracefully.

mod accept;
mod admin;
mod bootstrap;
mod eviction;
mod first_account;
mod half_closed;
mod instance_lock;
mod notice;
#[cfg(not(fuzzing))]
mod proxy;
#[cfg(fuzzing)]
pub mod proxy;
mod request_heads;
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
/// If a component cannot start. The message is for the operator.
pub fn main(settings: ServeSettings) -> anyhow::Result<()> {
    // Each connection takes a file descriptor. Systems allow a process many, but set a low default
    // limit.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    refuse_huge_pages();
    // The workers serve connections; this runtime serves background tasks.
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

/// Disables transparent huge pages. A connection uses only a part of its two buffers; with huge
/// pages both would be resident, which takes half as much memory again per connection.
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "cannot disable transparent huge pages");
    }
}

/// Serves on `listener` until `shutdown`, then drains.
///
/// # Errors
/// If a component cannot start. The message is for the operator.
pub async fn run(settings: &ServeSettings, listener: TcpListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    check(settings)?;
    let tls = Tls::load(&settings.listen.tls)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let address = listener.local_addr().context("the listener has no address")?;
    // Requests that finish during the drain still need the background tasks.
    let drained = CancellationToken::new();
    // Load balancers need a while to remove a stopping server.
    let closing = CancellationToken::new();
    tokio::spawn({
        let (shutdown, closing, delay) = (shutdown.clone(), closing.clone(), settings.admin.shutdown_delay);
        async move {
            shutdown.cancelled().await;
            tokio::time::sleep(delay).await;
            closing.cancel();
        }
    });
    // Install the recorder before the first metric is recorded.
    let metrics =
        settings.admin.admin_listen.map(|_| Metrics::begin()).transpose().context("cannot start the metrics")?;
    let workers = Workers::start(settings.listen.workers()).context("cannot start threads")?;
    let pages = Workers::start_for_pages().context("cannot start threads")?;
    let components = bootstrap::start(settings, address, &workers, &pages, &closing, &drained).await?;
    if let Some(first) = &components.first {
        let here = format!("{scheme}://{}", first_account::local_address(address));
        first.deliver(settings, &settings.page.public.origin().unwrap_or(here));
    }
    let admin = admin::start(&settings.admin, &settings.listen, metrics, &components.app, &shutdown, &drained).await?;
    gauge!("lockable_connections_max").set(settings.listen.connections);
    tracing::info!(%address, scheme, "listening");
    systemd::serving();
    let service = http::service(&components.app, web::routes(&components.app));
    serve(listener, service, &workers, &settings.listen, tls, closing).await;
    components.app.release_audit.flush().await;
    components.app.locks.finish().await;
    drained.cancel();
    components.background.close();
    components.background.wait().await;
    admin.wait().await;
    components.store.stop_supervision();
    workers.stop().await;
    pages.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Checks the settings for conflicts before any component starts.
///
/// # Errors
/// One line that names the setting to change.
pub fn check(settings: &ServeSettings) -> anyhow::Result<()> {
    Tls::load(&settings.listen.tls)?;
    bootstrap::check(settings)
}
