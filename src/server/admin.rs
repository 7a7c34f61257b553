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

/// How many connections the admin listener holds: for probes, and whoever
/// fetches metrics.
const CONNECTIONS: u32 = 64;
/// How long a scrape may take that has begun when the server leaves.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Listens for operators, if the settings say where, until `stop`. From
/// `leaving` on the server is not ready any more.
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
