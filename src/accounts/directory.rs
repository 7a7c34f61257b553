use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use tokio::time::timeout;

use super::{Caller, Database, Token, TokenHash, cache::SharedCache, usage::Usage};
use crate::keyspace::Keyspace;

/// Says whose a token is: from memory, where it was asked of late, else from the
/// keyspace, which all servers share, else from the database.
///
/// What is found is never older than a change for long. Each change of the
/// database has a number. Every server asks twice a second
/// for changes, forgets in the keyspace what they have made untrue, and drops it
/// from its memory. Nobody can put back what was forgotten:
///
/// - in the keyspace an entry carries the number up to which it is true, and
///   `account_keep.lua` refuses one from before the last change forgotten there;
/// - in memory each dropping counts as a new generation, and what was looked up
///   in an older one is used once and not kept.
pub struct Directory {
    pub(super) database: Database,
    pub(super) shared: SharedCache,
    known: Cache<TokenHash, Arc<Caller>>,
    unknown: Cache<TokenHash, ()>,
    generation: AtomicU64,
    pub(super) usage: Usage,
}

/// How far to go for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Memory and keyspace: cheap enough to do for anybody.
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
    /// The database could not be asked in time.
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

    pub fn new(database: Database, keyspace: Keyspace) -> Arc<Self> {
        let known = Cache::builder()
            .max_capacity(Self::KNOWN_MAX)
            .time_to_live(Self::REMEMBERED)
            .support_invalidation_closures()
            .build();
        let unknown = Cache::builder().max_capacity(Self::UNKNOWN_MAX).time_to_live(Self::REMEMBERED).build();
        let shared = SharedCache::new(keyspace);
        Arc::new(Self { database, shared, known, unknown, generation: AtomicU64::new(0), usage: Usage::default() })
    }

    /// Finds whose a token is.
    ///
    /// # Errors
    /// See [`FindError`].
    pub async fn find(self: &Arc<Self>, token: &Token, reach: Reach) -> Result<Arc<Caller>, FindError> {
        let hash = token.hash();
        let caller = match self.known.get(&hash).await {
            Some(caller) => caller,
            None => self.look_up(hash, reach).await?,
        };
        self.usage.note(&caller);
        Ok(caller)
    }

    /// Forgets in memory what a change has made untrue.
    pub(super) fn drop_known(&self, is_changed: impl Fn(&Caller) -> bool + Send + Sync + 'static) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.unknown.invalidate_all();
        if self.known.invalidate_entries_if(move |_, caller| is_changed(caller)).is_err() {
            // Cannot be: closures are supported. All is more than enough.
            self.known.invalidate_all();
        }
    }

    async fn look_up(self: &Arc<Self>, hash: TokenHash, reach: Reach) -> Result<Arc<Caller>, FindError> {
        if self.unknown.contains_key(&hash) {
            return Err(FindError::Unknown);
        }
        let generation = self.generation.load(Ordering::SeqCst);
        let found = match reach {
            // Whoever asks at the same time waits for this one answer.
            Reach::Everything => self.known.try_get_with(hash, self.read(hash)).await.map_err(|error| (*error).clone()),
            Reach::Caches => match self.read_shared(hash).await {
                Some(caller) => {
                    self.known.insert(hash, caller.clone()).await;
                    Ok(caller)
                }
                None => Err(FindError::NotCached),
            },
        };
        if matches!(found, Err(FindError::Unknown)) {
            self.unknown.insert(hash, ()).await;
        }
        if self.generation.load(Ordering::SeqCst) != generation {
            self.known.invalidate(&hash).await;
            self.unknown.invalidate(&hash).await;
        }
        found
    }

    async fn read(self: &Arc<Self>, hash: TokenHash) -> Result<Arc<Caller>, FindError> {
        match self.read_shared(hash).await {
            Some(caller) => Ok(caller),
            None => self.read_database(hash).await,
        }
    }

    /// What the keyspace knows. An entry that is no longer fresh is used, and
    /// read anew beside that.
    async fn read_shared(self: &Arc<Self>, hash: TokenHash) -> Option<Arc<Caller>> {
        match self.shared.find(&hash).await {
            Ok(entry) => {
                let entry = entry?;
                if !entry.is_fresh() {
                    let directory = self.clone();
                    tokio::spawn(async move { directory.read_database(hash).await });
                }
                Some(Arc::new(entry.caller))
            }
            Err(error) => {
                // The database may still know; the request itself will say
                // that the keyspace is away.
                tracing::debug!(%error, "the shared cache of tokens cannot be read");
                None
            }
        }
    }

    async fn read_database(&self, hash: TokenHash) -> Result<Arc<Caller>, FindError> {
        let found = match timeout(Self::DATABASE_TIMEOUT, self.database.find_caller(&hash)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(FindError::Unavailable(error.to_string())),
            Err(_) => return Err(FindError::Unavailable("the database took too long".into())),
        };
        let (seq, caller) = found.ok_or(FindError::Unknown)?;
        if let Err(error) = self.shared.keep(&hash, seq, &caller).await {
            tracing::debug!(%error, "the shared cache of tokens cannot be written");
        }
        Ok(Arc::new(caller))
    }
}
