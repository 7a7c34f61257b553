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
    cached_caller::Known,
    metrics::measured,
    subscription::{Subscription, Subscriptions},
    usage::Usage,
};
use crate::{lock::AccountId, store::Store};

/// Says whose a token is: from memory, where it was asked of late, else from the
/// store, which all servers share, else from the database.
///
/// What is found is never older than a change for long. Each change of the
/// database has a number. Every server asks twice a second
/// for changes, forgets in the store what they have made untrue, and drops it
/// from its memory. Nobody can put back what was forgotten:
///
/// - in the store an entry carries the number up to which it is true, and
///   `account_keep.lua` refuses one from before the last change forgotten there;
/// - in memory each dropping counts as a new generation. What was read in an
///   older one answers those who asked in that one, and is not kept.
///
/// The store may itself lose what it was told to forget, when a replica takes
/// over. It loses the number of that change with it, and is told again.
pub struct Directory {
    pub(super) database: Database,
    pub(super) shared: SharedCache,
    known: Cache<TokenHash, Known>,
    unknown: Cache<TokenHash, ()>,
    generation: AtomicU64,
    subscriptions: Arc<Subscriptions>,
    pub(super) usage: Usage,
    is_following: AtomicBool,
    /// The number of the last change that was followed.
    followed: watch::Sender<i64>,
    cache_key: ArcSwapOption<CacheKey>,
}

/// How far to go for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Memory and store: cheap enough to do for anybody.
    Caches,
    /// The database, too.
    Everything,
}

/// Why a token was not found.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FindError {
    /// It is nobody's, or revoked.
    #[error("the token is nobody's")]
    Unknown,
    /// No cache knows it, and the database was not to be asked.
    #[error("no cache knows the token")]
    NotCached,
    /// The database was asked, and did not answer in time.
    #[error("the database took too long")]
    Unanswered,
    /// The store or the database could not be asked.
    #[error("{0}")]
    Unavailable(String),
}

impl Directory {
    /// How many tokens are remembered in memory, and how many that are nobody's.
    pub const KNOWN_MAX: u64 = 100_000;
    pub const UNKNOWN_MAX: u64 = 10_000;
    /// For how long.
    pub const REMEMBERED: Duration = Duration::from_secs(5);
    /// How long the database may take.
    pub const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

    pub fn new(database: Database, store: Store) -> Arc<Self> {
        let known = Cache::builder()
            .max_capacity(Self::KNOWN_MAX)
            .time_to_live(Self::REMEMBERED)
            .support_invalidation_closures()
            .build();
        let unknown = Cache::builder().max_capacity(Self::UNKNOWN_MAX).time_to_live(Self::REMEMBERED).build();
        let shared = SharedCache::new(store);
        Arc::new(Self {
            database,
            shared,
            known,
            unknown,
            generation: AtomicU64::new(0),
            subscriptions: Arc::default(),
            usage: Usage::default(),
            is_following: AtomicBool::new(false),
            followed: watch::Sender::new(0),
            cache_key: ArcSwapOption::empty(),
        })
    }

    /// Whose a token is, if memory knows: nobody is asked before the answer.
    pub async fn recall(self: &Arc<Self>, token: &Token) -> Option<Arc<Caller>> {
        let hash = token.hash();
        let known = self.known.get(&hash).await?;
        count_lookup("memory");
        if known.is_due() {
            // What cannot be read is asked for again when it is not remembered any more.
            tokio::spawn(self.clone().look_up(hash, Reach::Caches));
        }
        self.admit(known.caller).ok()
    }

    /// Finds whose a token is. The turn to ask is kept until the answer is there,
    /// also for who does not wait for it.
    ///
    /// # Errors
    /// See [`FindError`].
    pub async fn find(
        self: &Arc<Self>,
        token: &Token,
        reach: Reach,
        turn: impl Send + 'static,
    ) -> Result<Arc<Caller>, FindError> {
        // It may have been found while there was no turn.
        if let Some(caller) = self.recall(token).await {
            return Ok(caller);
        }
        let (directory, hash) = (self.clone(), token.hash());
        let looking_up = async move {
            let _turn = turn;
            directory.look_up(hash, reach).await
        };
        // In a task of its own: whoever asks may go away in the middle, and
        // what was read must not be kept without the check at the end.
        match tokio::spawn(looking_up.in_current_span()).await {
            Ok(found) => self.admit(found?),
            Err(error) => Err(FindError::Unavailable(error.to_string())),
        }
    }

    fn admit(&self, caller: Arc<Caller>) -> Result<Arc<Caller>, FindError> {
        if caller.has_ended() {
            return Err(FindError::Unknown);
        }
        self.usage.note(&caller);
        Ok(caller)
    }

    /// Whether the database was there when it was last asked for changes, which
    /// is twice a second.
    pub fn is_following(&self) -> bool {
        self.is_following.load(Ordering::Relaxed)
    }

    /// Measures how the account database stands.
    pub fn measure(&self) {
        gauge!("lockable_database_up").set(f64::from(u8::from(self.is_following())));
        let (open, idle) = (self.database.pool().size() as usize, self.database.pool().num_idle());
        gauge!("lockable_database_connections", "state" => "idle").set(idle as f64);
        gauge!("lockable_database_connections", "state" => "used").set(open.saturating_sub(idle) as f64);
    }

    /// Tells whenever changes were followed.
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.followed.subscribe()
    }

    pub(super) fn note_followed(&self, seq: i64) {
        self.followed.send_replace(seq);
    }

    pub(super) fn note_following(&self, is_following: bool) {
        self.is_following.store(is_following, Ordering::Relaxed);
    }

    /// Subscribes to the changes of an account.
    pub fn subscribe(&self, account: AccountId) -> Subscription {
        self.subscriptions.subscribe(account)
    }

    /// Forgets in memory what a change has made untrue, then notifies the requests that
    /// subscribe to the accounts that have changed.
    pub(super) fn drop_known(&self, has_changed: impl Fn(&AccountId) -> bool + Send + Sync + 'static) {
        let has_changed = Arc::new(has_changed);
        let is_meant = has_changed.clone();
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.unknown.invalidate_all();
        if self.known.invalidate_entries_if(move |_, known| is_meant(&known.caller.account)).is_err() {
            // Cannot be: closures are supported. All is more than enough.
            self.known.invalidate_all();
        }
        // Once more: whoever has asked under the number above may have been given what was
        // about to be forgotten.
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.subscriptions.publish(|account| has_changed(account));
    }

    #[cfg(test)]
    pub(super) fn remembers(&self, hash: &TokenHash) -> bool {
        self.known.contains_key(hash)
    }

    async fn look_up(self: Arc<Self>, hash: TokenHash, reach: Reach) -> Result<Arc<Caller>, FindError> {
        if self.unknown.contains_key(&hash) {
            return Err(FindError::Unknown);
        }
        let asked = self.generation();
        loop {
            let found = match reach {
                // Whoever asks at the same time waits for this one answer.
                Reach::Everything => self.known.try_get_with(hash, self.read(hash)).await.map_err(|e| (*e).clone()),
                Reach::Caches => self.read_shared(hash).await.and_then(|known| known.ok_or(FindError::NotCached)),
            };
            match &found {
                Ok(known) if reach == Reach::Caches => self.known.insert(hash, known.clone()).await,
                Err(FindError::Unknown) => self.unknown.insert(hash, ()).await,
                _ => {}
            }
            let read = found.as_ref().map_or(asked, |known| known.generation);
            if read != self.generation() {
                self.known.invalidate(&hash).await;
                self.unknown.invalidate(&hash).await;
            }
            // Who waited for the answer of somebody who had begun before a
            // change asks again.
            if read >= asked {
                return found.map(|known| known.caller);
            }
        }
    }

    /// A number that rises whenever something is dropped from memory: what was
    /// found under another may not be true any more.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    async fn read(self: &Arc<Self>, hash: TokenHash) -> Result<Known, FindError> {
        let generation = self.generation();
        match self.read_shared(hash).await? {
            Some(known) => Ok(known),
            None => Ok(Known::new(self.read_database(hash).await?, generation)),
        }
    }

    /// What the store knows. An entry that is no longer fresh is used, and
    /// read anew beside that.
    async fn read_shared(self: &Arc<Self>, hash: TokenHash) -> Result<Option<Known>, FindError> {
        let generation = self.generation();
        // Without it nothing can be believed, and the database cannot be asked either.
        let Some(key) = self.cache_key().await else { return Ok(None) };
        let found = match self.shared.find(&hash, &key).await {
            // In a cluster the locks may be on other nodes, which are there.
            Err(_) if self.shared.is_apart_from_locks() => None,
            // Else nothing can be done without the store for a caller, whoever it is.
            // Asking the database would only make the answer late.
            found => found.map_err(|error| FindError::Unavailable(error.to_string()))?,
        };
        let Some(entry) = found else { return Ok(None) };
        count_lookup("store");
        if !entry.is_fresh() {
            tokio::spawn(self.clone().refresh(hash));
        }
        Ok(Some(Known::new(Arc::new(entry.caller), generation)))
    }

    /// What signs entries in the store, from memory where it was read before.
    async fn cache_key(&self) -> Option<Arc<CacheKey>> {
        match self.cache_key.load_full() {
            Some(key) => Some(key),
            None => self.read_cache_key().await,
        }
    }

    /// Reads what signs entries in the store: it may have been replaced.
    pub(super) async fn read_cache_key(&self) -> Option<Arc<CacheKey>> {
        let read = timeout(Self::DATABASE_TIMEOUT, measured("cache_key", self.database.cache_key())).await;
        match read.unwrap_or(Err(AccountsError::TooSlow)) {
            Ok(key) => self.cache_key.store(Some(Arc::new(key))),
            Err(error) => tracing::debug!(%error, "the key of the cache cannot be read"),
        }
        self.cache_key.load_full()
    }

    async fn refresh(self: Arc<Self>, hash: TokenHash) {
        if let Err(FindError::Unknown) = self.read_database(hash).await {
            // It was to be forgotten long ago.
            let forgotten = self.shared.forget_token(&hash).await;
            tracing::debug!(?forgotten, "a token that is nobody's was still kept");
        }
    }

    async fn read_database(&self, hash: TokenHash) -> Result<Arc<Caller>, FindError> {
        let found =
            match timeout(Self::DATABASE_TIMEOUT, measured("find_caller", self.database.find_caller(&hash))).await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => return Err(FindError::Unavailable(error.to_string())),
                Err(_) => return Err(FindError::Unanswered),
            };
        count_lookup(if found.is_some() { "database" } else { "nowhere" });
        let (seq, caller) = found.ok_or(FindError::Unknown)?;
        let caller = Arc::new(caller);
        let (shared, kept) = (self.shared.clone(), caller.clone());
        let key = self.cache_key().await;
        tokio::spawn(async move {
            let Some(key) = key else { return };
            if let Err(error) = shared.keep(&hash, seq, &kept, &key).await {
                tracing::debug!(%error, "the shared cache of tokens cannot be written");
            }
        });
        Ok(caller)
    }
}

/// Counts where it was found whose a token is.
fn count_lookup(source: &'static str) {
    counter!("lockable_token_lookups_total", "source" => source).increment(1);
}
