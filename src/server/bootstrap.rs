use std::{net::SocketAddr, num::NonZeroU32, sync::Arc};

use anyhow::{Context, bail};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Workers, first_account::FirstAccount, instance_lock::InstanceLock};
use crate::{
    accounts::{Database, TokenCache},
    app::{App, PageResources, ReleaseAudit},
    config::ServeSettings,
    limits::{AccountRates, ActionRateLimiter, AuthFailureLimiter, InFlightLimit, PerKeyLimit, PerKeySemaphore},
    lock::Lease,
    locks::Locks,
    store::{BootClock, Embedded, Redis, Store},
};

/// The parts of a server.
pub(super) struct Components {
    pub app: Arc<App>,
    pub store: Store,
    pub background: TaskTracker,
    /// The first account, if this start created it.
    pub first: Option<FirstAccount>,
    _instance_lock: Option<InstanceLock>,
}

/// Starts the components in the order of their dependencies, for a server that listens on
/// `address`. After `draining` no request is queued; background tasks end with `stop`.
pub(super) async fn start(
    settings: &ServeSettings,
    address: SocketAddr,
    workers: &Workers,
    pages: &Workers,
    draining: &CancellationToken,
    stop: &CancellationToken,
) -> anyhow::Result<Components> {
    let is_embedded = settings.redis.url.is_none();
    let instance_lock = is_embedded.then(|| InstanceLock::acquire(&settings.database)).transpose()?;
    let database = open_database(settings).await?;
    let store = open_store(settings, workers, &database).await?;
    let first = match database.is_embedded() {
        true => FirstAccount::create(&database).await.context("cannot create the first account")?,
        false => None,
    };

    let background = TaskTracker::new();
    let journal = Arc::new(database.clone());
    let can_sign_up = can_sign_up(settings, address, &database);
    if can_sign_up {
        check_plan(&database, &settings.page.sign_up_plan).await?;
    }
    Database::warn_if_shared(&settings.database);
    let token_cache = TokenCache::new(database.clone(), store.clone());
    background.spawn(token_cache.clone().run(stop.clone()));
    let short = Lease::from_ms(settings.recovery.journal_above.as_millis() as u64);
    let locks = Locks::new(store.clone(), journal, short, settings.limits.waiters as usize);
    // If the store has lost nothing, the recovery ends here, before the first request.
    if let Err(error) = locks.recover().await {
        tracing::warn!(%error, "cannot check yet whether the store has lost grants; retrying");
    }
    locks.check_store_at_start().await?;
    background.spawn(locks.clone().run(stop.clone()));
    let failures = NonZeroU32::new(settings.limits.auth_failures_per_minute).unwrap_or(NonZeroU32::MIN);
    let app = Arc::new(App {
        locks,
        release_audit: ReleaseAudit::new(token_cache.clone(), ActionRateLimiter::new(store.clone())),
        token_cache,
        database,
        action_rates: ActionRateLimiter::new(store.clone()),
        pages: PageResources {
            origin: settings.page.public.origin(),
            is_https: settings.listen.tls.cert.is_some()
                || settings.page.public.public_url.as_ref().is_some_and(|url| url.scheme() == "https"),
            can_sign_up,
            sign_up_plan: settings.page.sign_up_plan.clone(),
            live_views_per_account: PerKeyLimit::new(PageResources::LIVE_VIEWS_PER_ACCOUNT_MAX),
            live_views: Arc::new(Semaphore::new(PageResources::LIVE_VIEWS_MAX)),
            runtime: pages.runtimes().pop().context("no thread for pages")?,
            renders_per_account: PerKeySemaphore::new(
                PageResources::RENDERS_PER_ACCOUNT_MAX,
                PageResources::RENDERS_QUEUE_MAX,
            ),
            downloads_per_account: PerKeyLimit::new(PageResources::DOWNLOADS_PER_ACCOUNT_MAX),
            downloads: Arc::new(Semaphore::new(PageResources::DOWNLOADS_MAX)),
        },
        account_rates: AccountRates::new(store.clone()),
        // Unbounded queue: each waiting request holds a connection, and the number of connections
        // is limited.
        token_lookups: PerKeySemaphore::new(1, usize::MAX),
        rechecks: Arc::new(Semaphore::new(App::RECHECKS_MAX)),
        auth_failures: AuthFailureLimiter::new(failures),
        session_failures: AuthFailureLimiter::new(failures),
        trusted_proxies: settings.listen.trusted_proxies.clone(),
        request_timeout: settings.listen.request_timeout,
        in_flight: Arc::new(InFlightLimit::new(settings.limits.requests)),
        records_metrics: settings.admin.admin_listen.is_some(),
        wait_max: settings.limits.wait_max,
        draining: draining.clone(),
    });
    background.spawn(app.clone().serve_operators(stop.clone()));
    Ok(Components { app, store, background, first, _instance_lock: instance_lock })
}

/// Whether anyone can sign up. Without a setting, only if no other machine reaches the server by
/// its address, through a proxy, or under a public URL.
fn can_sign_up(settings: &ServeSettings, address: SocketAddr, database: &Database) -> bool {
    let is_local = address.ip().to_canonical().is_loopback()
        && settings.listen.trusted_proxies.is_empty()
        && settings.page.public.is_local();
    if database.is_embedded() && !is_local && settings.page.sign_up.is_none() {
        tracing::info!(
            "sign-up is disabled because other machines can reach this server; LOCKABLE_SIGN_UP=true enables it"
        );
    }
    settings.page.sign_up.unwrap_or(database.is_embedded() && is_local)
}

/// Checks the settings for conflicts.
pub(super) fn check(settings: &ServeSettings) -> anyhow::Result<()> {
    Database::check_address(&settings.database)?;
    let (waiters, connections) = (settings.limits.waiters, settings.listen.connections);
    if waiters >= connections {
        bail!(
            "LOCKABLE_WAITERS ({waiters}) leaves no connection of LOCKABLE_CONNECTIONS ({connections}) for heartbeats \
             and releases; lower LOCKABLE_WAITERS"
        );
    }
    if settings.redis.url.is_none() && settings.database.url.scheme() != "sqlite" {
        bail!(
            "without LOCKABLE_REDIS_URL, each server of this database would grant locks of its own; set \
             LOCKABLE_REDIS_URL, or use SQLite in LOCKABLE_DATABASE_URL"
        );
    }
    Ok(())
}

async fn open_database(settings: &ServeSettings) -> anyhow::Result<Database> {
    let database = Database::open(&settings.database).await.context("cannot open the account database")?;
    if settings.database.migrate {
        database.migrate().await.context("cannot migrate the account database")?;
    } else {
        database.check_version().await?;
    }
    Ok(database)
}

async fn open_store(settings: &ServeSettings, workers: &Workers, database: &Database) -> anyhow::Result<Store> {
    match &settings.redis.url {
        Some(url) => {
            let redis = Redis::start(&settings.redis, &workers.runtimes()).await?;
            tracing::info!(redis = %url, "storing locks in Redis");
            Ok(Store::Redis(redis))
        }
        None => {
            tracing::warn!(
                "storing locks in the memory of this process, which supports one server only; set LOCKABLE_REDIS_URL to run \
                 several"
            );
            // The journal has leases of the previous process, so its clock continues.
            let clock = match database.last_process_with_grants().await.context("cannot read the journal")? {
                Some(process) => BootClock::resume(&process),
                None => BootClock::start(),
            };
            if let Some(seconds) = clock.wall_clock_lead() {
                tracing::warn!(
                    seconds,
                    "the machine's clock was set while locks were held; leases expire by the former time, which is also \
                     shown, until the server starts without held locks"
                );
            }
            let ceiling = usize::try_from(settings.redis.embedded_memory).unwrap_or(usize::MAX);
            Ok(Store::Embedded(Arc::new(Embedded::new(clock)?.with_memory_limit(ceiling))))
        }
    }
}

/// Fails at start instead of at the first sign-up.
async fn check_plan(database: &Database, name: &str) -> anyhow::Result<()> {
    let plans = database.list_plans().await.context("cannot read the plans")?;
    if !plans.iter().any(|plan| plan.name == name) {
        bail!("LOCKABLE_SIGN_UP_PLAN names the unknown plan {name:?}; see lockable plan list");
    }
    Ok(())
}
