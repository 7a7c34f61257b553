use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use metrics::{counter, gauge};
use moka::future::Cache;
use tokio::{sync::watch, time::timeout};
use tracing::Instrument;

use super::{
    AccountsError, Caller, Database, Token, TokenHash,
    cache::SharedCache,
    cache_key::CacheKey,
    cached_caller::CachedCaller,
    metrics::measured,
    subscription::{AccountSubscriptions, Subscription},
    usage::TokenUsage,
};
use crate::{lock::AccountId, store::Store};

/// Resolves tokens to callers: from memory, then from the store, which all servers share, then from
/// the database.
///
/// A result is at most about one second older than the database. Each change of the database has a
/// number. Every server polls the changes, invalidates the affected entries in the store, and drops
/// them from its memory. No reader can restore an invalidated entry:
///
/// - in the store, an entry carries the number of the last change before it was read, and
///   `cache_put_caller.lua` rejects an entry from before the last invalidation;
/// - in memory, each invalidation begins a new generation. A result that was read in an older
///   generation answers only the requests of that generation and is not cached.
///
/// A failover of the store may lose invalidations. It loses the number of the last change with
/// them, so that the servers repeat them.
pub struct TokenCache {
    pub(super) database: Database,
    pub(super) shared: SharedCache,
    callers: Cache<TokenHash, CachedCaller>,
    invalid_tokens: Cache<TokenHash, ()>,
    generation: AtomicU64,
    subscriptions: Arc<AccountSubscriptions>,
    pub(super) usage: TokenUsage,
    is_feed_up: AtomicBool,
    /// The number of the last change that this server has applied.
    last_change: watch::Sender<i64>,
    cache_key: ArcSwapOption<CacheKey>,
}

/// The sources that a lookup may query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupDepth {
    /// Memory and store: cheap enough for every request.
    Caches,
    /// Memory, store and database.
    Database,
}

/// Why a lookup failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenLookupError {
    /// The token is unknown, revoked or expired.
    #[error("invalid token")]
    Unknown,
    /// No cache has the token, and the database was not queried.
    #[error("the token is not cached")]
    NotCached,
    /// The database did not answer in time.
    #[error("the database timed out")]
    TimedOut,
    /// The store or the database failed.
    #[error("{0}")]
    Unavailable(String),
}

impl TokenCache {
    /// Maximum number of valid tokens in memory, and of invalid ones.
    pub const CALLERS_MAX: u64 = 100_000;
    pub const INVALID_TOKENS_MAX: u64 = 10_000;
    /// Lifetime of entries in memory.
    pub const TTL: Duration = Duration::from_secs(5);
    /// Time limit for a database query.
    pub const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

    pub fn new(database: Database, store: Store) -> Arc<Self> {
        let callers = Cache::builder()
            .max_capacity(Self::CALLERS_MAX)
            .time_to_live(Self::TTL)
            .support_invalidation_closures()
            .build();
        let invalid_tokens = Cache::builder().max_capacity(Self::INVALID_TOKENS_MAX).time_to_live(Self::TTL).build();
        let shared = SharedCache::new(store);
        Arc::new(Self {
            database,
            shared,
            callers,
            invalid_tokens,
            generation: AtomicU64::new(0),
            subscriptions: Arc::default(),
            usage: TokenUsage::default(),
            is_feed_up: AtomicBool::new(false),
            last_change: watch::Sender::new(0),
            cache_key: ArcSwapOption::empty(),
        })
    }

    /// Returns the caller of a token from memory.
    pub async fn get(self: &Arc<Self>, token: &Token) -> Option<Arc<Caller>> {
        let hash = token.hash();
        let cached = self.callers.get(&hash).await?;
        count_lookup("memory");
        if cached.claim_refresh() {
            // A failed refresh is repeated when the entry has expired.
            tokio::spawn(self.clone().resolve(hash, LookupDepth::Caches));
        }
        self.admit(cached.caller).ok()
    }

    /// Resolves a token. `permit` is held until the answer arrives, also if the caller stops
    /// waiting.
    ///
    /// # Errors
    /// See [`TokenLookupError`].
    pub async fn find(
        self: &Arc<Self>,
        token: &Token,
        depth: LookupDepth,
        permit: impl Send + 'static,
    ) -> Result<Arc<Caller>, TokenLookupError> {
        // Another request may have cached it while this one waited for its permit.
        if let Some(caller) = self.get(token).await {
            return Ok(caller);
        }
        let (token_cache, hash) = (self.clone(), token.hash());
        let lookup = async move {
            let _permit = permit;
            token_cache.resolve(hash, depth).await
        };
        // In a task of its own: the caller may be dropped, and the result must not be cached
        // without the generation check at the end.
        match tokio::spawn(lookup.in_current_span()).await {
            Ok(found) => self.admit(found?),
            Err(error) => Err(TokenLookupError::Unavailable(error.to_string())),
        }
    }

    fn admit(&self, caller: Arc<Caller>) -> Result<Arc<Caller>, TokenLookupError> {
        if caller.is_expired() {
            return Err(TokenLookupError::Unknown);
        }
        self.usage.record(&caller);
        Ok(caller)
    }

    /// Whether the last poll for changes succeeded, at most about half a second ago.
    pub fn is_feed_up(&self) -> bool {
        self.is_feed_up.load(Ordering::Relaxed)
    }

    /// Records the gauges of the account database.
    pub fn measure(&self) {
        gauge!("lockable_database_up").set(f64::from(u8::from(self.is_feed_up())));
        let (open, idle) = (self.database.pool().size() as usize, self.database.pool().num_idle());
        gauge!("lockable_database_connections", "state" => "idle").set(idle as f64);
        gauge!("lockable_database_connections", "state" => "used").set(open.saturating_sub(idle) as f64);
    }

    /// Notifies the receiver after each applied change.
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.last_change.subscribe()
    }

    pub(super) fn set_last_change(&self, seq: i64) {
        self.last_change.send_replace(seq);
    }

    pub(super) fn set_feed_up(&self, is_feed_up: bool) {
        self.is_feed_up.store(is_feed_up, Ordering::Relaxed);
    }

    /// Subscribes to the changes of an account.
    pub fn subscribe(&self, account: AccountId) -> Subscription {
        self.subscriptions.subscribe(account)
    }

    /// Drops changed accounts from memory, then notifies the subscribers of these accounts.
    pub(super) fn invalidate_callers(&self, has_changed: impl Fn(&AccountId) -> bool + Send + Sync + 'static) {
        let has_changed = Arc::new(has_changed);
        let is_affected = has_changed.clone();
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.invalid_tokens.invalidate_all();
        if self.callers.invalidate_entries_if(move |_, cached| is_affected(&cached.caller.account)).is_err() {
            // Cannot happen: closures are supported. Dropping all entries is safe.
            self.callers.invalidate_all();
        }
        // Increment again: between the first increment and the invalidation, a request may have read
        // an outdated entry and recorded it with the new generation.
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.subscriptions.publish(|account| has_changed(account));
    }

    #[cfg(test)]
    pub(super) fn contains(&self, hash: &TokenHash) -> bool {
        self.callers.contains_key(hash)
    }

    async fn resolve(self: Arc<Self>, hash: TokenHash, depth: LookupDepth) -> Result<Arc<Caller>, TokenLookupError> {
        if self.invalid_tokens.contains_key(&hash) {
            return Err(TokenLookupError::Unknown);
        }
        let started_in = self.generation();
        loop {
            let found = match depth {
                // Concurrent requests wait for the same lookup.
                LookupDepth::Database => {
                    self.callers.try_get_with(hash, self.read(hash)).await.map_err(|e| (*e).clone())
                }
                LookupDepth::Caches => {
                    self.read_shared(hash).await.and_then(|cached| cached.ok_or(TokenLookupError::NotCached))
                }
            };
            match &found {
                Ok(cached) if depth == LookupDepth::Caches => self.callers.insert(hash, cached.clone()).await,
                Err(TokenLookupError::Unknown) => self.invalid_tokens.insert(hash, ()).await,
                _ => {}
            }
            let read = found.as_ref().map_or(started_in, |cached| cached.generation);
            if read != self.generation() {
                self.callers.invalidate(&hash).await;
                self.invalid_tokens.invalidate(&hash).await;
            }
            // This request shared a lookup that had begun before the change: look up again.
            if read >= started_in {
                return found.map(|cached| cached.caller);
            }
        }
    }

    /// Returns the generation, which rises with every invalidation: a result of another generation
    /// may be outdated.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    async fn read(self: &Arc<Self>, hash: TokenHash) -> Result<CachedCaller, TokenLookupError> {
        let generation = self.generation();
        match self.read_shared(hash).await? {
            Some(cached) => Ok(cached),
            None => Ok(CachedCaller::new(self.read_database(hash).await?, generation)),
        }
    }

    /// Reads the store. A used entry that needs a refresh is refreshed in the background.
    async fn read_shared(self: &Arc<Self>, hash: TokenHash) -> Result<Option<CachedCaller>, TokenLookupError> {
        let generation = self.generation();
        // Without the key no entry can be verified, and the database is unreachable as well.
        let Some(key) = self.cache_key().await else { return Ok(None) };
        let found = match self.shared.get(&hash, &key).await {
            // In a cluster the locks may be on other nodes that are available.
            Err(_) if self.shared.is_apart_from_locks() => None,
            // Otherwise no request can succeed without the store; a database query would only delay
            // the answer.
            found => found.map_err(|error| TokenLookupError::Unavailable(error.to_string()))?,
        };
        let Some(entry) = found else { return Ok(None) };
        count_lookup("store");
        if !entry.is_fresh() {
            tokio::spawn(self.clone().refresh(hash));
        }
        Ok(Some(CachedCaller::new(Arc::new(entry.caller), generation)))
    }

    /// Returns the signing key, from memory if it was read before.
    async fn cache_key(&self) -> Option<Arc<CacheKey>> {
        match self.cache_key.load_full() {
            Some(key) => Some(key),
            None => self.read_cache_key().await,
        }
    }

    /// Reads the signing key again: it may have been replaced.
    pub(super) async fn read_cache_key(&self) -> Option<Arc<CacheKey>> {
        let read = timeout(Self::DATABASE_TIMEOUT, measured("cache_key", self.database.cache_key())).await;
        match read.unwrap_or(Err(AccountsError::TooSlow)) {
            Ok(key) => self.cache_key.store(Some(Arc::new(key))),
            Err(error) => tracing::debug!(%error, "cannot read the token cache's signing key"),
        }
        self.cache_key.load_full()
    }

    async fn refresh(self: Arc<Self>, hash: TokenHash) {
        if let Err(TokenLookupError::Unknown) = self.read_database(hash).await {
            // The invalidation should have removed it long ago.
            let invalidated = self.shared.invalidate_token(&hash).await;
            tracing::debug!(outcome = ?invalidated, "removed an invalid token from the shared cache");
        }
    }

    async fn read_database(&self, hash: TokenHash) -> Result<Arc<Caller>, TokenLookupError> {
        let found =
            match timeout(Self::DATABASE_TIMEOUT, measured("find_caller", self.database.find_caller(&hash))).await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => return Err(TokenLookupError::Unavailable(error.to_string())),
                Err(_) => return Err(TokenLookupError::TimedOut),
            };
        count_lookup(if found.is_some() { "database" } else { "not_found" });
        let (seq, caller) = found.ok_or(TokenLookupError::Unknown)?;
        let caller = Arc::new(caller);
        let (shared, cached) = (self.shared.clone(), caller.clone());
        let key = self.cache_key().await;
        tokio::spawn(async move {
            let Some(key) = key else { return };
            if let Err(error) = shared.put(&hash, seq, &cached, &key).await {
                tracing::debug!(%error, "cannot write to the shared token cache");
            }
        });
        Ok(caller)
    }
}

/// Counts a token lookup by its source.
fn count_lookup(source: &'static str) {
    counter!("lockable_token_lookups_total", "source" => source).increment(1);
}
