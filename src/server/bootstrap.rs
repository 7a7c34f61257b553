use std::{net::SocketAddr, num::NonZeroU32, sync::Arc};

use anyhow::{Context, bail};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Workers, first_account::FirstAccount, instance_lock::Exclusive};
use crate::{
    accounts::{Database, Directory},
    app::{App, Page, Releases},
    config::ServeSettings,
    limits::{Addresses, Attempts, Places, Rates, Shares, Turns},
    lock::Lease,
    locks::Locks,
    store::{BootClock, Embedded, Redis, Store},
};

/// The parts of a server.
pub(super) struct Parts {
    pub app: Arc<App>,
    pub store: Store,
    pub background: TaskTracker,
    /// The account that was made, if there was none.
    pub first: Option<FirstAccount>,
    _exclusive: Option<Exclusive>,
}

/// Starts the parts in the order in which they need each other, for a server that listens on
/// `address`. With `draining` nobody is let wait any more; what runs in the background ends with
/// `stop`.
pub(super) async fn start(
    settings: &ServeSettings,
    address: SocketAddr,
    workers: &Workers,
    pages: &Workers,
    draining: &CancellationToken,
    stop: &CancellationToken,
) -> anyhow::Result<Parts> {
    let is_embedded = settings.redis.url.is_none();
    let exclusive = is_embedded.then(|| Exclusive::hold(&settings.database)).transpose()?;
    let database = open_database(settings).await?;
    let store = open_store(settings, workers, &database).await?;
    let first = match database.is_embedded() {
        true => FirstAccount::make(&database).await.context("cannot make the first account")?,
        false => None,
    };

    let background = TaskTracker::new();
    let journal = Arc::new(database.clone());
    let can_sign_up = can_sign_up(settings, address, &database);
    if can_sign_up {
        check_plan(&database, &settings.page.sign_up_plan).await?;
    }
    Database::warn_if_shared(&settings.database);
    let directory = Directory::new(database.clone(), store.clone());
    background.spawn(directory.clone().run(stop.clone()));
    let short = Lease::from_ms(settings.recovery.journal_above.as_millis() as u64);
    let locks = Locks::new(store.clone(), journal, short, settings.limits.waiters as usize);
    // With all there it is over before the first request.
    if let Err(error) = locks.recover().await {
        tracing::warn!(%error, "it is not known yet whether grants were forgotten");
    }
    locks.check_store_at_start().await?;
    background.spawn(locks.clone().run(stop.clone()));
    let failures = NonZeroU32::new(settings.limits.auth_failures_per_minute).unwrap_or(NonZeroU32::MIN);
    let app = Arc::new(App {
        locks,
        releases: Releases::new(directory.clone(), Attempts::new(store.clone())),
        directory,
        database,
        attempts: Attempts::new(store.clone()),
        page: Page {
            origin: settings.page.public.origin(),
            is_https: settings.listen.tls.cert.is_some()
                || settings.page.public.public_url.as_ref().is_some_and(|url| url.scheme() == "https"),
            can_sign_up,
            sign_up_plan: settings.page.sign_up_plan.clone(),
            live_of: Shares::new(Page::LIVE_OF_ACCOUNT_MAX),
            live: Arc::new(Semaphore::new(Page::LIVE_MAX)),
            runtime: pages.runtimes().pop().context("there is no thread for pages")?,
            making_of: Turns::new(Page::MADE_AT_ONCE, Page::MADE_AND_WAITING_MAX),
            files_of: Shares::new(Page::FILES_OF_ACCOUNT_MAX),
            files: Arc::new(Semaphore::new(Page::FILES_MAX)),
        },
        rates: Rates::new(store.clone()),
        // Each that waits has a connection, of which there are only so many.
        lookups: Turns::new(1, usize::MAX),
        rechecks: Arc::new(Semaphore::new(App::RECHECKS_AT_ONCE)),
        addresses: Addresses::new(failures),
        sessions: Addresses::new(failures),
        trusted_proxies: settings.listen.trusted_proxies.clone(),
        request_timeout: settings.listen.request_timeout,
        requests: Arc::new(Places::new(settings.limits.requests)),
        measures: settings.admin.admin_listen.is_some(),
        wait_max: settings.limits.wait_max,
        draining: draining.clone(),
    });
    background.spawn(app.clone().serve_operators(stop.clone()));
    Ok(Parts { app, store, background, first, _exclusive: exclusive })
}

/// Whether strangers may make accounts. Unless set, only where nobody but this machine reaches the
/// server: by its address, through a proxy, or under a public name.
fn can_sign_up(settings: &ServeSettings, address: SocketAddr, database: &Database) -> bool {
    let is_local = address.ip().to_canonical().is_loopback()
        && settings.listen.trusted_proxies.is_empty()
        && settings.page.public.is_local();
    if database.is_embedded() && !is_local && settings.page.sign_up.is_none() {
        tracing::info!("sign-up is closed, since other machines reach this server; LOCKABLE_SIGN_UP=true opens it");
    }
    settings.page.sign_up.unwrap_or(database.is_embedded() && is_local)
}

/// Finds settings that do not go together.
pub(super) fn check(settings: &ServeSettings) -> anyhow::Result<()> {
    Database::check_address(&settings.database)?;
    let (waiters, connections) = (settings.limits.waiters, settings.listen.connections);
    if waiters >= connections {
        bail!(
            "LOCKABLE_WAITERS ({waiters}) leaves no connection of LOCKABLE_CONNECTIONS ({connections}) for heartbeats \
             and releases; make it smaller"
        );
    }
    if settings.redis.url.is_none() && settings.database.url.scheme() != "sqlite" {
        bail!(
            "without LOCKABLE_REDIS_URL every server on this database would keep locks of its own; \
             set it, or leave LOCKABLE_DATABASE_URL to SQLite"
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
            tracing::info!(redis = %url, "locks live in Redis");
            Ok(Store::Redis(redis))
        }
        None => {
            tracing::warn!(
                "locks live in this process: good for trying Lockable and for one server; not for several servers, for \
                 which LOCKABLE_REDIS_URL is to be set"
            );
            // Its leases, in the journal, go on by the clock by which they were granted.
            let clock = match database.last_process_with_grants().await.context("cannot read the journal")? {
                Some(process) => BootClock::resume(&process),
                None => BootClock::start(),
            };
            if let Some(seconds) = clock.wall_ahead() {
                tracing::warn!(
                    seconds,
                    "the machine's clock was set since the locks were acquired; they lapse by the former time, which is \
                     also shown, until a start at which none is held"
                );
            }
            let ceiling = usize::try_from(settings.redis.embedded_memory).unwrap_or(usize::MAX);
            Ok(Store::Embedded(Arc::new(Embedded::new(clock)?.with_ceiling(ceiling))))
        }
    }
}

/// Who signs up must not be the one to find that there is no such plan.
async fn check_plan(database: &Database, name: &str) -> anyhow::Result<()> {
    let plans = database.list_plans().await.context("cannot read the plans")?;
    if !plans.iter().any(|plan| plan.name == name) {
        bail!("LOCKABLE_SIGN_UP_PLAN names {name:?}, and there is no such plan; see lockable plan list");
    }
    Ok(())
}
