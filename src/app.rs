//! The state that all handlers share.

mod break_lock;
mod operator;
mod releases;

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    accounts::{Database, TokenCache, TokenHash},
    limits::{AccountRates, ActionRateLimiter, AuthFailureLimiter, InFlightLimit, PerKeyLimit, PerKeySemaphore},
    lock::AccountId,
    locks::Locks,
};

pub use self::{
    break_lock::{AuditedBreak, BreakError},
    releases::{ReleaseAudit, ReleaseByOtherToken},
};

/// The shared state, created once at the start.
pub struct App {
    pub locks: Locks,
    pub token_cache: Arc<TokenCache>,
    /// The account database, for the pages.
    pub database: Database,
    /// The request rates of accounts.
    pub account_rates: AccountRates,
    /// Lookups of tokens that are not in memory: one at a time per token.
    pub token_lookups: Arc<PerKeySemaphore<TokenHash>>,
    /// Limits concurrent rechecks of the callers of queued requests.
    pub rechecks: Arc<Semaphore>,
    /// Failed authentications with tokens, per client address.
    pub auth_failures: AuthFailureLimiter,
    /// Invalid session cookies, per client address. Counted separately: a job with a wrong token must not
    /// block the pages of people behind the same address.
    pub session_failures: AuthFailureLimiter,
    /// The rates of costly actions, such as sign-ins.
    pub action_rates: ActionRateLimiter,
    /// Records releases by other tokens in the audit log.
    pub release_audit: ReleaseAudit,
    pub pages: PageResources,
    /// Networks of proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The timeout of a request, without its wait for a lock.
    pub request_timeout: Duration,
    /// Limits the requests in flight.
    pub in_flight: Arc<InFlightLimit>,
    /// Whether request metrics are recorded: only with an admin listener that serves them.
    pub records_metrics: bool,
    /// The longest wait of a request for a lock.
    pub wait_max: Duration,
    /// Cancelled when the server begins to stop; queued requests then return.
    pub draining: CancellationToken,
}

/// The settings and limits of the pages.
pub struct PageResources {
    /// The public URL without a final slash. `None`: the one of each request.
    pub origin: Option<String>,
    /// Whether all clients use HTTPS, to this server or to a proxy in front of it.
    pub is_https: bool,
    /// Whether people may sign up, and the plan of their accounts.
    pub can_sign_up: bool,
    pub sign_up_plan: String,
    /// Limit the live views of locks, per account and in all.
    pub live_views_per_account: Arc<PerKeyLimit<AccountId>>,
    pub live_views: Arc<Semaphore>,
    /// The runtime that renders pages, separate from the threads that serve heartbeats.
    pub runtime: Handle,
    /// Limits concurrent page renders per account.
    pub renders_per_account: Arc<PerKeySemaphore<AccountId>>,
    /// Limit the streamed downloads, per account and in all.
    pub downloads_per_account: Arc<PerKeyLimit<AccountId>>,
    pub downloads: Arc<Semaphore>,
}

impl App {
    /// The maximum number of concurrent rechecks. Each may take a database connection, which other
    /// requests need, too.
    pub const RECHECKS_MAX: usize = 4;
}

impl PageResources {
    /// The maximum numbers of live views in one server: of one account, and of all accounts.
    pub const LIVE_VIEWS_PER_ACCOUNT_MAX: u32 = 20;
    pub const LIVE_VIEWS_MAX: usize = 1_000;
    /// The maximum number of concurrent page renders of one account, and the maximum of its running
    /// and queued renders together.
    pub const RENDERS_PER_ACCOUNT_MAX: usize = 4;
    pub const RENDERS_QUEUE_MAX: usize = 50;
    /// The maximum numbers of concurrent downloads: of one account, and of all accounts.
    pub const DOWNLOADS_PER_ACCOUNT_MAX: u32 = 2;
    pub const DOWNLOADS_MAX: usize = 100;
}
