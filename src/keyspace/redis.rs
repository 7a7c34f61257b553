//! The keyspace in Redis.

mod address;
mod advisers;
mod call;
mod check;
mod dial;
mod lanes;
mod link;
mod live;
mod locate;
mod pauses;
mod pipeline;
mod subscriptions;

use std::{sync::Arc, time::Duration};

use metrics::gauge;
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    call::{Fault, evaluate},
    link::{Hearth, Link, Plan},
    locate::Locator,
    subscriptions::Subscriptions,
};
use super::{
    KeyspaceError, Reply, Script,
    home::{ACCOUNTS_TAG, Home, LOCK_TAG},
    key,
};
use crate::config::RedisSettings;

pub use self::check::StartError;

/// A Redis or Valkey server, or several of which one is the master, or a cluster.
///
/// All scripts that one runtime runs on one server share a connection: at 64
/// clients that was measured to be twice as fast as a pool, and costs both sides
/// half as much. The pool is for what needs a connection to itself.
pub struct Redis {
    /// The way to the locks.
    link: Arc<Link>,
    /// In a cluster, the way to what is kept of accounts.
    accounts: Option<Arc<Link>>,
    subscriptions: Subscriptions,
    prefix: String,
    timeout: Duration,
    wait_replicas: u32,
    home: Arc<Home>,
    _tasks: DropGuard,
}

impl Redis {
    /// Connects, and keeps connected until dropped. A server that cannot be
    /// reached yet is waited for in the background. Each of the `runtimes` has a
    /// connection of its own; scripts that are run elsewhere go by the first.
    ///
    /// # Errors
    /// When the address cannot be read, or the server must not be used: too old,
    /// about to evict locks, or with another password.
    pub async fn start(settings: &RedisSettings, runtimes: &[Handle]) -> Result<Arc<Self>, StartError> {
        let url = settings.url.as_ref().ok_or(StartError::NoAddress)?;
        let locator = Arc::new(Locator::parse(url, settings.timeout)?);
        let stop = CancellationToken::new();
        let subscriptions = Subscriptions::start(locator.clone(), stop.clone());
        let home = Arc::new(Home::new());
        let keys = ["home", "clock"].map(|kind| key(&settings.prefix, LOCK_TAG, kind, ""));
        let plan = |tag, hearth| Plan {
            locator: locator.clone(),
            tag,
            hearth,
            runtimes: runtimes.to_vec(),
            lent_max: settings.pool_size,
        };
        let hearth = Hearth { home: home.clone(), keys };
        let link = Link::start(plan(LOCK_TAG, Some(hearth)), stop.clone()).await?;
        let accounts = match locator.is_cluster() {
            true => Some(Link::start(plan(ACCOUNTS_TAG, None), stop.clone()).await?),
            false => None,
        };
        Ok(Arc::new(Self {
            link,
            accounts,
            subscriptions,
            prefix: settings.prefix.clone(),
            timeout: settings.timeout,
            wait_replicas: settings.wait_replicas,
            home,
            _tasks: stop.drop_guard(),
        }))
    }

    /// Runs a script within the time-out from when it `begun`, connecting included.
    ///
    /// # Errors
    /// See [`KeyspaceError`].
    pub async fn run(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
        begun: std::time::Instant,
    ) -> Result<Reply, KeyspaceError> {
        let deadline = Instant::from_std(begun) + self.timeout;
        let live = self.link_to(keys).live(deadline).await?;
        match live.pipeline().evaluate(script, keys, args, deadline).await {
            Ok(reply) => {
                live.answered();
                Ok(reply)
            }
            Err(fault) => {
                live.note(&fault);
                Err(fault.into())
            }
        }
    }

    /// Like [`run`](Self::run), and has as many replicas acknowledge it as the
    /// settings say, on a connection of its own: `WAIT` holds it up.
    ///
    /// # Errors
    /// See [`KeyspaceError`].
    pub async fn run_replicated(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
        begun: std::time::Instant,
    ) -> Result<Reply, KeyspaceError> {
        match self.wait_replicas {
            0 => self.run(script, keys, args, begun).await,
            // Boxed: its room would be taken in every request, most of which
            // come by the other way.
            _ => Box::pin(self.run_and_wait(script, keys, args)).await,
        }
    }

    async fn run_and_wait(
        &self,
        script: &'static Script,
        keys: &[&str],
        args: &[&str],
    ) -> Result<Reply, KeyspaceError> {
        let deadline = Instant::now() + self.timeout;
        let live = self.link_to(keys).live(deadline).await?;
        let mut lent = match timeout_at(deadline, live.pool.get()).await {
            Ok(Ok(pooled)) => Lent(Some(pooled)),
            Ok(Err(error)) => return Err(KeyspaceError::NotSent(error.to_string())),
            Err(_) => return Err(KeyspaceError::NotSent("no connection was free in time".into())),
        };
        let replicated = async {
            let pooled = lent.connection()?;
            let reply = evaluate(&mut **pooled, script, keys, args).await?;
            let rest = deadline.saturating_duration_since(Instant::now());
            // Zero would mean to wait for ever.
            let rest_ms = rest.as_millis().max(1) as u64;
            let mut wait = ::redis::cmd("WAIT");
            let acknowledged = wait.arg(self.wait_replicas).arg(rest_ms).query_async::<u32>(&mut **pooled).await;
            // Whatever was answered, the script has run.
            Ok::<_, Fault>((reply, acknowledged.map_err(|error| Fault::Gone(error.to_string()))?))
        };
        let (reply, acknowledged) = timeout_at(deadline, replicated).await.unwrap_or(Err(Fault::Slow))?;
        lent.give_back();
        if acknowledged < self.wait_replicas {
            let wanted = self.wait_replicas;
            let complaint = format!("{acknowledged} of {wanted} replicas acknowledged in time");
            return Err(KeyspaceError::NoAnswer(complaint));
        }
        Ok(reply)
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// What the server says of itself that the connection leads to.
    ///
    /// # Errors
    /// When there is none in time.
    pub(super) async fn process(&self) -> Result<String, KeyspaceError> {
        let live = self.link.live(Instant::now() + self.timeout).await?;
        Ok(live.identity().process())
    }

    /// Listens to a channel for as long as the receiver is kept.
    pub fn subscribe(&self, channel: &str) -> mpsc::Receiver<String> {
        self.subscriptions.add(channel)
    }

    /// Whether there is a connection to a server that was checked.
    pub fn is_reachable(&self) -> bool {
        self.link.is_live()
    }

    /// The way to the server that has these keys, which share a hash tag.
    fn link_to(&self, keys: &[&str]) -> &Link {
        let is_of_accounts = || keys.first().is_some_and(|key| key.split(['{', '}']).nth(1) == Some(ACCOUNTS_TAG));
        match &self.accounts {
            Some(accounts) if is_of_accounts() => accounts,
            _ => &self.link,
        }
    }

    /// Measures the pool's connections.
    pub fn measure(&self) {
        let Some(status) = self.link.pool_status() else { return };
        gauge!("lockable_redis_pool_connections", "state" => "idle").set(status.available as f64);
        gauge!("lockable_redis_pool_connections", "state" => "used")
            .set(status.size.saturating_sub(status.available) as f64);
    }

    /// The server's time in microseconds since 1970, or a little less.
    pub fn now_us(&self) -> Option<u64> {
        self.link.now_us()
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What the name of every key begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// A connection of the pool that is not given back unless all that was asked on
/// it has been answered: whatever is still to come is not for its next user, and
/// after a fail-over it leads to the old master.
struct Lent(Option<deadpool_redis::Connection>);

impl Lent {
    fn connection(&mut self) -> Result<&mut deadpool_redis::Connection, Fault> {
        self.0.as_mut().ok_or_else(|| Fault::Gone("the connection was given back".into()))
    }

    fn give_back(mut self) {
        self.0 = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(pooled) = self.0.take() {
            drop(deadpool_redis::Connection::take(pooled));
        }
    }
}
