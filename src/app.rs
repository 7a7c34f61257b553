//! What handlers share.

mod break_lock;
mod operator;
mod releases;

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    accounts::{Database, Directory, TokenHash},
    limits::{Addresses, Attempts, Places, Rates, Shares, Turns},
    lock::AccountId,
    locks::Locks,
};

pub use self::{
    break_lock::{BreakError, Breaking},
    releases::{ForeignRelease, Releases},
};

/// Everything that a request may need, made once at the start.
pub struct App {
    pub locks: Locks,
    pub directory: Arc<Directory>,
    /// The accounts themselves, for the account page.
    pub database: Database,
    /// The rates of tokens.
    pub rates: Rates,
    /// Lookups of tokens that memory does not know, of each one at a time.
    pub lookups: Arc<Turns<TokenHash>>,
    /// How many callers of queued requests are checked again at once.
    pub rechecks: Arc<Semaphore>,
    /// Failed authentications of client addresses.
    pub addresses: Addresses,
    /// Sessions of client addresses that nobody has. Counted apart: a job with a wrong token
    /// must not keep people behind its address from their page.
    pub sessions: Addresses,
    /// What people try on the account page.
    pub attempts: Attempts,
    /// Releases to be recorded in the audit log.
    pub releases: Releases,
    pub page: Page,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long a request may take in all, beside what it waits for a lock.
    pub request_timeout: Duration,
    /// Places for requests that are worked on.
    pub requests: Arc<Places>,
    /// Whether requests are counted: only where somebody can fetch the figures.
    pub measures: bool,
    /// For how long a request may wait for a lock.
    pub wait_max: Duration,
    /// Cancelled when the server is to stop: nobody waits any more then.
    pub draining: CancellationToken,
}

/// What the account page has to know.
pub struct Page {
    /// Where clients reach the service, without a slash at its end; by default
    /// where a request came in.
    pub origin: Option<String>,
    /// Whether everybody comes by HTTPS, to this server or to what is before it.
    pub is_https: bool,
    /// Whether anybody may make an account, and on which plan.
    pub can_sign_up: bool,
    pub sign_up_plan: String,
    /// Places for browsers that look at locks live, of each account and of all.
    pub live_of: Arc<Shares<AccountId>>,
    pub live: Arc<Semaphore>,
    /// Where pages of accounts are made: away from the threads that serve heartbeats.
    pub runtime: Handle,
    /// Turns of an account's members to have a page made.
    pub making_of: Arc<Turns<AccountId>>,
    /// Places for files that are made while they are fetched, of each account and of all.
    pub files_of: Arc<Shares<AccountId>>,
    pub files: Arc<Semaphore>,
}

impl App {
    /// How many callers of queued requests are checked again at once: each may ask the
    /// database, which others need, too.
    pub const RECHECKS_AT_ONCE: usize = 4;
}

impl Page {
    /// How many browsers of an account may look at locks live at once, and how
    /// many of all accounts, in one server.
    pub const LIVE_OF_ACCOUNT_MAX: u32 = 20;
    pub const LIVE_MAX: usize = 1_000;
    /// How many pages of an account are made at once, and how many more requests for
    /// one wait for their turn.
    pub const MADE_AT_ONCE: usize = 4;
    pub const MADE_AND_WAITING_MAX: usize = 50;
    /// How many files of an account are fetched at once, and how many of all accounts.
    pub const FILES_OF_ACCOUNT_MAX: u32 = 2;
    pub const FILES_MAX: usize = 100;
}
