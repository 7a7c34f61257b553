use std::time::Duration;

use metrics::counter;
use serde::{Deserialize, Serialize};

use super::{
    Caller, TokenHash,
    cache_key::{CacheKey, Signed},
    change::now_ms,
    lookup::ChangeSet,
};
use crate::{
    lock::AccountId,
    store::{ACCOUNTS_TAG, Reply, Script, Store, StoreError},
};

macro_rules! script {
    ($name:literal) => {
        Script::new(
            $name,
            concat!(include_str!("../../lua/prelude.lua"), include_str!(concat!("../../lua/", $name, ".lua"))),
        )
    };
}

static GET: Script = script!("cache_get_caller");
static PUT: Script = script!("cache_put_caller");
static INVALIDATE: Script = script!("cache_invalidate_caller");

/// The token cache in the store, which all servers share.
#[derive(Clone)]
pub(super) struct SharedCache {
    store: Store,
}

/// The cached result of one token lookup.
#[derive(Serialize, Deserialize)]
pub(super) struct CacheEntry {
    pub caller: Caller,
    /// When the database was read, in milliseconds since 1970.
    read_at: i64,
}

/// The message that a server publishes after a change.
#[derive(Serialize, Deserialize)]
pub(super) struct Invalidation {
    pub accounts: Vec<AccountId>,
    /// A plan has changed: every entry is invalid.
    pub plans: bool,
}

impl SharedCache {
    /// Lifetime of an entry. Entries in use are refreshed after [`Self::REFRESH_AFTER`], so every
    /// token that was used in the last 23 hours stays valid for at least one hour after the
    /// database fails.
    pub(super) const ENTRY_TTL: Duration = Duration::from_secs(24 * 3600);
    /// Age after which a used entry is refreshed.
    pub(super) const REFRESH_AFTER: Duration = Duration::from_secs(600);
    /// Maximum number of changed accounts that are invalidated one by one. Beyond it, all entries
    /// are invalidated.
    pub(super) const CHANGED_ACCOUNTS_MAX: usize = 2000;
    /// Accounts per script: Redis runs nothing else meanwhile.
    const INVALIDATION_BATCH: usize = 50;
    /// Maximum number of accounts whose last change is stored.
    const FLOORS_MAX: usize = 10_000;

    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    pub(super) fn channel(&self) -> String {
        self.key("changes", "")
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Whether the cache may fail while locks are available, because it is on another node of a
    /// cluster.
    pub(super) fn is_apart_from_locks(&self) -> bool {
        self.store.is_sharded()
    }

    /// Reads the entry of a token. Returns `None` for an entry that another program wrote: one
    /// without a valid signature, or older than its lifetime.
    pub(super) async fn get(&self, hash: &TokenHash, key: &CacheKey) -> Result<Option<CacheEntry>, StoreError> {
        if self.is_apart_from_locks() && !self.store.is_accounts_node_connected() {
            return Err(StoreError::NotSent("the Redis node with the token cache is unreachable".into()));
        }
        let keys = [&*self.key("token", &hash.to_string()), &self.key("floor", ""), &self.key("floors", "")];
        let reply = self.store.eval(&GET, &keys, &[]).await?;
        if reply.status() != "found" {
            return Ok(None);
        }
        // Another version may have written an entry that this one cannot parse. The token cache then
        // queries the database.
        let entry = read_entry(&reply, hash, key);
        if entry.is_none() {
            counter!("lockable_token_cache_rejected_total").increment(1);
        }
        Ok(entry)
    }

    pub(super) async fn put(
        &self,
        hash: &TokenHash,
        seq: i64,
        caller: &Caller,
        key: &CacheKey,
    ) -> Result<(), StoreError> {
        let entry = CacheEntry { caller: caller.clone(), read_at: now_ms() };
        let Ok(entry) = serde_json::to_string(&entry) else { return Ok(()) };
        let keys = [&*self.key("token", &hash.to_string()), &self.key("floor", ""), &self.key("floors", "")];
        let (seq, account) = (seq.to_string(), caller.account.to_string());
        let mac = key.mac(&Signed { token: hash, seq: &seq, account: &account, entry: &entry });
        let entry = format!("{mac} {entry}");
        let args = [&*seq, &Self::ENTRY_TTL.as_millis().to_string(), &account, &entry];
        self.store.eval(&PUT, &keys, &args).await.map(drop)
    }

    /// Returns the number of the last change whose accounts were invalidated in the store.
    pub(super) async fn last_invalidated(&self) -> Result<i64, StoreError> {
        self.run_invalidation("nothing", 0, "", None, &[]).await.map(|(revision, _)| revision)
    }

    /// Invalidates the entries of changed accounts and notifies all servers. This takes several
    /// scripts if many accounts have changed; only the last one records the change number, so that
    /// another server repeats an interrupted invalidation. Returns the number of the last change
    /// that was invalidated before.
    pub(super) async fn invalidate(&self, changes: &ChangeSet) -> Result<i64, StoreError> {
        let invalidation = Invalidation { accounts: changes.accounts.iter().copied().collect(), plans: changes.plans };
        let message = invalidation.to_text();
        if changes.plans {
            return self.run_invalidation("all", changes.seq, &message, None, &[]).await.map(|(_, before)| before);
        }
        let mut accounts = &*invalidation.accounts;
        while let Some((some, others)) = accounts.split_at_checked(Self::INVALIDATION_BATCH) {
            self.run_invalidation("accounts", changes.seq, "", None, some).await?;
            accounts = others;
        }
        // Changes of sessions and links do not affect tokens.
        let message = if invalidation.accounts.is_empty() { "" } else { &message };
        self.run_invalidation("change", changes.seq, message, None, accounts).await.map(|(_, before)| before)
    }

    /// Invalidates a token that the database no longer has.
    pub(super) async fn invalidate_token(&self, hash: &TokenHash) -> Result<(), StoreError> {
        self.run_invalidation("nothing", 0, "", Some(hash), &[]).await.map(drop)
    }

    /// Returns the numbers of the last invalidated change after and before the call.
    async fn run_invalidation(
        &self,
        scope: &str,
        seq: i64,
        message: &str,
        token: Option<&TokenHash>,
        accounts: &[AccountId],
    ) -> Result<(i64, i64), StoreError> {
        let counters = ["revision", "floor", "floors"].map(|kind| self.key(kind, ""));
        let entry = token.map(|hash| self.key("token", &hash.to_string()));
        let keys: Vec<&str> = counters.iter().chain(&entry).map(String::as_str).collect();
        let numbers = [seq.to_string(), Self::FLOORS_MAX.to_string(), Self::ENTRY_TTL.as_millis().to_string()];
        let [seq, accounts_max, keep_ms] = numbers.each_ref().map(String::as_str);
        let channel = self.channel();
        let accounts: Vec<String> = accounts.iter().map(ToString::to_string).collect();
        let args = [scope, seq, &*channel, message, accounts_max, keep_ms];
        let args: Vec<&str> = args.into_iter().chain(accounts.iter().map(String::as_str)).collect();
        let reply = self.store.eval(&INVALIDATE, &keys, &args).await?;
        let read = reply.word(1).and_then(|revision| Ok((revision, reply.word(2)?)));
        read.map_err(|bad| StoreError::Refused(bad.to_string()))
    }

    /// All keys share one hash slot: a script invalidates an entry and its number atomically.
    fn key(&self, kind: &str, rest: &str) -> String {
        self.store.key(ACCOUNTS_TAG, kind, rest)
    }
}

/// Parses and verifies an entry.
fn read_entry(reply: &Reply, token: &TokenHash, key: &CacheKey) -> Option<CacheEntry> {
    let (seq, account, text) = (reply.text(1).ok()?, reply.text(2).ok()?, reply.text(3).ok()?);
    let (mac, entry) = text.split_once(' ')?;
    let is_signed = key.is_mac(mac, &Signed { token, seq, account, entry });
    let entry: CacheEntry = serde_json::from_str(entry).ok().filter(|_| is_signed)?;
    entry.is_unexpired().then_some(entry)
}

impl CacheEntry {
    /// Maximum clock difference between two servers.
    const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

    /// Whether the entry is within its lifetime. Its signature does not prove that: a writer to
    /// Redis could store an old entry again.
    fn is_unexpired(&self) -> bool {
        let [ttl, skew] = [SharedCache::ENTRY_TTL, Self::CLOCK_SKEW_MAX].map(|time| time.as_millis() as i64);
        let age = now_ms().saturating_sub(self.read_at);
        -skew <= age && age <= ttl + skew
    }

    pub(super) fn is_fresh(&self) -> bool {
        now_ms().saturating_sub(self.read_at) < SharedCache::REFRESH_AFTER.as_millis() as i64
    }
}

impl Invalidation {
    fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::{
        accounts::{Plan, Scopes, Token},
        lock::{Label, Lease, NamespaceId, Rate},
        store::{BootClock, Embedded},
    };

    pub(in crate::accounts) fn caller() -> Caller {
        let lease = Lease::from_secs(60);
        let plan = Plan {
            name: "test".into(),
            rate: Rate { per_second: 1, burst: 1 },
            lease_default: lease,
            lease_min: lease,
            lease_max: lease,
            locks_max: 1,
            waiters_max: 1,
            tokens_max: 1,
            private_namespaces: false,
        };
        Caller {
            account: AccountId(Uuid::new_v4()),
            token: Uuid::new_v4(),
            label: Label::parse("test").unwrap(),
            scopes: Scopes { lock: true, manage: false },
            suspended: false,
            plan,
            own_lease: None,
            namespaces: Vec::new(),
            default_namespace: NamespaceId::Public,
            last_used_hour: None,
            expires_at: None,
        }
    }

    /// A cache and its signing key.
    struct TestCache(SharedCache, CacheKey);

    impl std::ops::Deref for TestCache {
        type Target = SharedCache;

        fn deref(&self) -> &SharedCache {
            &self.0
        }
    }

    impl TestCache {
        async fn put(&self, hash: &TokenHash, seq: i64, caller: &Caller) -> Result<(), StoreError> {
            self.0.put(hash, seq, caller, &self.1).await
        }
    }

    fn shared() -> TestCache {
        let store = Store::Embedded(Arc::new(Embedded::new(BootClock::start()).unwrap()));
        TestCache(SharedCache::new(store), CacheKey::generate())
    }

    async fn is_cached(cache: &TestCache, hash: &TokenHash, caller: &Caller) -> bool {
        cache.get(hash, &cache.1).await.unwrap().is_some_and(|entry| entry.caller == *caller)
    }

    #[tokio::test]
    async fn entry_is_valid_for_one_day() {
        let at = |age_ms: i64| CacheEntry { caller: caller(), read_at: now_ms() - age_ms }.is_unexpired();
        let day_ms = SharedCache::ENTRY_TTL.as_millis() as i64;
        assert!(at(0) && at(day_ms) && at(-60_000));
        assert!(!at(day_ms + 600_000) && !at(-600_000) && !at(i64::MIN / 2));
    }

    /// A change of `accounts`, and of this number of other accounts.
    fn change(seq: i64, others: usize, accounts: &[AccountId]) -> ChangeSet {
        let others = (0..others).map(|n| AccountId(Uuid::from_u128(n as u128)));
        ChangeSet { seq, accounts: others.chain(accounts.iter().copied()).collect(), plans: false }
    }

    #[tokio::test]
    async fn slow_reader_does_not_restore_an_invalidated_entry() {
        let cache = shared();
        let (hash, caller) = (Token::generate().hash(), caller());
        let is_cached = async || is_cached(&cache, &hash, &caller).await;
        assert!(!is_cached().await);
        cache.put(&hash, 1, &caller).await.unwrap();
        assert!(is_cached().await);

        // More accounts than one script handles.
        cache.invalidate(&change(5, 2 * SharedCache::INVALIDATION_BATCH, &[caller.account])).await.unwrap();
        assert!(!is_cached().await);
        cache.put(&hash, 4, &caller).await.unwrap();
        assert!(!is_cached().await, "the entry is older than the invalidated change");
        cache.put(&hash, 5, &caller).await.unwrap();
        assert!(is_cached().await);

        cache.invalidate(&ChangeSet { seq: 6, plans: true, ..ChangeSet::default() }).await.unwrap();
        assert!(!is_cached().await, "a change of a plan invalidates every entry");
        cache.put(&hash, 5, &caller).await.unwrap();
        assert!(!is_cached().await, "the entry is older than the change of the plan");
        assert_eq!(cache.last_invalidated().await.unwrap(), 6);
    }

    #[tokio::test]
    async fn entry_survives_changes_of_other_accounts() {
        let cache = shared();
        let (hash, caller) = (Token::generate().hash(), caller());
        for seq in 1..4 {
            cache.invalidate(&change(seq, 1, &[])).await.unwrap();
        }
        cache.put(&hash, 1, &caller).await.unwrap();
        assert!(is_cached(&cache, &hash, &caller).await, "a slow reader whose account has not changed");
        cache.invalidate(&change(4, SharedCache::CHANGED_ACCOUNTS_MAX, &[])).await.unwrap();
        assert!(is_cached(&cache, &hash, &caller).await);
    }

    #[tokio::test]
    async fn number_of_stored_account_changes_is_bounded() {
        static COUNT: Script = Script::new("test_zcard", "return {string.format('%d', redis.call('ZCARD', KEYS[1]))}");
        let cache = shared();
        let (early, late) = (caller(), caller());
        let [early_hash, late_hash] = [(); 2].map(|()| Token::generate().hash());
        cache.put(&early_hash, 1, &early).await.unwrap();
        cache.invalidate(&change(2, 1, &[])).await.unwrap();
        cache.put(&late_hash, 2, &late).await.unwrap();
        cache.invalidate(&change(3, SharedCache::FLOORS_MAX + 1, &[])).await.unwrap();
        let others = (0..SharedCache::FLOORS_MAX).map(|n| AccountId(Uuid::from_u128(1 << 64 | n as u128)));
        cache.invalidate(&ChangeSet { seq: 4, accounts: others.collect(), plans: false }).await.unwrap();
        assert!(!is_cached(&cache, &early_hash, &early).await, "the floor is newer than the entry");
        let floors = cache.store().key(ACCOUNTS_TAG, "floors", "");
        let reply = cache.store().eval(&COUNT, &[&floors], &[]).await.unwrap();
        assert_eq!(reply.status(), SharedCache::FLOORS_MAX.to_string());
        cache.put(&late_hash, 4, &late).await.unwrap();
        assert!(is_cached(&cache, &late_hash, &late).await);
    }

    #[tokio::test]
    async fn servers_are_notified_once_after_the_invalidation() {
        let cache = shared();
        let mut invalidations = cache.store().subscribe(&cache.channel());
        let changes = change(1, SharedCache::CHANGED_ACCOUNTS_MAX, &[]);
        cache.invalidate(&changes).await.unwrap();
        let invalidation: Invalidation = serde_json::from_str(&invalidations.try_recv().unwrap()).unwrap();
        assert_eq!((invalidation.accounts.len(), invalidation.plans), (SharedCache::CHANGED_ACCOUNTS_MAX, false));
        assert!(invalidations.try_recv().is_err(), "notified twice");
        cache.invalidate(&change(2, 0, &[])).await.unwrap();
        assert!(invalidations.try_recv().is_err(), "no cached entry has changed");
    }
}
