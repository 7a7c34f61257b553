use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{net::TcpListener, time::interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Workers, serve};
use crate::{
    app::App,
    config::{AdminSettings, ListenSettings},
    http::admin_router,
    telemetry::Metrics,
};

/// Maximum number of connections of the admin listener, for probes and metric scrapers.
const CONNECTIONS: u32 = 64;
/// Time limit for a scrape in progress when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts the admin listener if the settings name an address, until `stop`. After `leaving`,
/// /readyz reports that the server is not ready.
pub(super) async fn start(
    settings: &AdminSettings,
    listen: &ListenSettings,
    metrics: Option<Metrics>,
    app: &Arc<App>,
    leaving: &CancellationToken,
    stop: &CancellationToken,
) -> anyhow::Result<TaskTracker> {
    let tasks = TaskTracker::new();
    tasks.close();
    let (Some(address), Some(metrics)) = (settings.admin_listen, metrics) else { return Ok(tasks) };
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr().context("the admin listener has no address")?;
    let upkeep = metrics.clone();
    let stopped = stop.clone();
    tasks.spawn(async move {
        let mut tick = interval(Metrics::UPKEEP_INTERVAL);
        let _ = stopped
            .run_until_cancelled(async {
                loop {
                    tick.tick().await;
                    upkeep.upkeep();
                }
            })
            .await;
    });
    let router = admin_router(app.clone(), leaving.clone(), Arc::new(move || metrics.render()));
    let listen = ListenSettings {
        connections: CONNECTIONS,
        connections_per_address: CONNECTIONS,
        proxy_protocol: false,
        drain_timeout: DRAIN_TIMEOUT,
        ..listen.clone()
    };
    let stop = stop.clone();
    tasks.spawn(async move { serve(listener, router, &Workers::here(), &listen, None, stop).await });
    tracing::info!(%address, "listening for operators");
    Ok(tasks)
}
