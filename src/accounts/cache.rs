use std::time::Duration;

use metrics::counter;
use serde::{Deserialize, Serialize};

use super::{
    Caller, TokenHash,
    cache_key::{CacheKey, Signed},
    change::now_ms,
    lookup::Changes,
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

static FIND: Script = script!("account_find");
static KEEP: Script = script!("account_keep");
static FORGET: Script = script!("account_forget");

/// What is kept of tokens in the store, for all servers.
#[derive(Clone)]
pub(super) struct SharedCache {
    store: Store,
}

/// What is kept of one token.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    pub caller: Caller,
    /// When it was read from the database, in milliseconds since 1970.
    read_at: i64,
}

/// What servers tell each other of a change.
#[derive(Serialize, Deserialize)]
pub(super) struct Notice {
    pub accounts: Vec<AccountId>,
    /// A plan has changed: everything may have.
    pub plans: bool,
}

impl SharedCache {
    /// How long an entry is kept. Those in use are read anew after
    /// [`Self::FRESH`], so when the database goes away, every token that was
    /// used within this time less an hour is known for an hour at least.
    pub(super) const KEPT: Duration = Duration::from_secs(24 * 3600);
    /// How old an entry may be when it is used without being read anew.
    pub(super) const FRESH: Duration = Duration::from_secs(600);
    /// How many accounts may have changed at once for each of them to be forgotten by
    /// itself. Beyond that all tokens are forgotten.
    pub(super) const CHANGED_MAX: usize = 2000;
    /// How many of them one script forgets: Redis does nothing else meanwhile.
    const FORGET_AT_ONCE: usize = 50;
    /// Of how many accounts it is kept when they changed last.
    const ACCOUNTS_MAX: usize = 10_000;

    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    pub(super) fn channel(&self) -> String {
        self.key("changes", "")
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Whether it may be away while locks are there: on another node of a cluster.
    pub(super) fn is_apart_from_locks(&self) -> bool {
        self.store.is_spread()
    }

    /// What is kept of a token. Nothing for an entry that no server with this key has signed,
    /// or that is older than they are kept: then somebody else has written it.
    pub(super) async fn find(&self, hash: &TokenHash, key: &CacheKey) -> Result<Option<Entry>, StoreError> {
        if self.is_apart_from_locks() && !self.store.has_accounts() {
            return Err(StoreError::NotSent("the node that has accounts is away".into()));
        }
        let keys = [&*self.key("token", &hash.to_string()), &self.key("floor", ""), &self.key("floors", "")];
        let reply = self.store.run(&FIND, &keys, &[]).await?;
        if reply.status() != "found" {
            return Ok(None);
        }
        // What an older or newer server wrote may not be readable; it is read
        // from the database then.
        let entry = read_entry(&reply, hash, key);
        if entry.is_none() {
            counter!("lockable_token_cache_rejected_total").increment(1);
        }
        Ok(entry)
    }

    pub(super) async fn keep(
        &self,
        hash: &TokenHash,
        seq: i64,
        caller: &Caller,
        key: &CacheKey,
    ) -> Result<(), StoreError> {
        let entry = Entry { caller: caller.clone(), read_at: now_ms() };
        let Ok(entry) = serde_json::to_string(&entry) else { return Ok(()) };
        let keys = [&*self.key("token", &hash.to_string()), &self.key("floor", ""), &self.key("floors", "")];
        let (seq, account) = (seq.to_string(), caller.account.to_string());
        let mac = key.mac(&Signed { token: hash, seq: &seq, account: &account, entry: &entry });
        let entry = format!("{mac} {entry}");
        let args = [&*seq, &Self::KEPT.as_millis().to_string(), &account, &entry];
        self.store.run(&KEEP, &keys, &args).await.map(drop)
    }

    /// The number of the last change that was forgotten here.
    pub(super) async fn last_forgotten(&self) -> Result<i64, StoreError> {
        self.run_forget("nothing", 0, "", None, &[]).await.map(|(revision, _)| revision)
    }

    /// Forgets what the changes have made untrue, and tells all servers. It takes a few
    /// scripts when many accounts have changed; the last one says that it is done, and a
    /// server that stops before it leaves the rest to be forgotten again. Returns the number
    /// of the last change that had been forgotten before.
    pub(super) async fn forget(&self, changes: &Changes) -> Result<i64, StoreError> {
        let notice = Notice { accounts: changes.accounts.iter().copied().collect(), plans: changes.plans };
        let message = notice.to_text();
        if changes.plans {
            return self.run_forget("all", changes.seq, &message, None, &[]).await.map(|(_, before)| before);
        }
        let mut accounts = &*notice.accounts;
        while let Some((some, others)) = accounts.split_at_checked(Self::FORGET_AT_ONCE) {
            self.run_forget("accounts", changes.seq, "", None, some).await?;
            accounts = others;
        }
        // Sessions and links begin and end without a change of what tokens allow.
        let message = if notice.accounts.is_empty() { "" } else { &message };
        self.run_forget("change", changes.seq, message, None, accounts).await.map(|(_, before)| before)
    }

    /// Forgets a token that the database does not know any more.
    pub(super) async fn forget_token(&self, hash: &TokenHash) -> Result<(), StoreError> {
        self.run_forget("nothing", 0, "", Some(hash), &[]).await.map(drop)
    }

    /// Returns the number of the last change that is forgotten now, and that was before.
    async fn run_forget(
        &self,
        what: &str,
        seq: i64,
        message: &str,
        token: Option<&TokenHash>,
        accounts: &[AccountId],
    ) -> Result<(i64, i64), StoreError> {
        let kept = ["revision", "floor", "floors"].map(|kind| self.key(kind, ""));
        let entry = token.map(|hash| self.key("token", &hash.to_string()));
        let keys: Vec<&str> = kept.iter().chain(&entry).map(String::as_str).collect();
        let numbers = [seq.to_string(), Self::ACCOUNTS_MAX.to_string(), Self::KEPT.as_millis().to_string()];
        let [seq, accounts_max, keep_ms] = numbers.each_ref().map(String::as_str);
        let channel = self.channel();
        let accounts: Vec<String> = accounts.iter().map(ToString::to_string).collect();
        let args = [what, seq, &*channel, message, accounts_max, keep_ms];
        let args: Vec<&str> = args.into_iter().chain(accounts.iter().map(String::as_str)).collect();
        let reply = self.store.run(&FORGET, &keys, &args).await?;
        let read = reply.word(1).and_then(|revision| Ok((revision, reply.word(2)?)));
        read.map_err(|bad| StoreError::Refused(bad.to_string()))
    }

    /// All of one hash slot: a script forgets an entry and its number at once.
    fn key(&self, kind: &str, rest: &str) -> String {
        self.store.key(ACCOUNTS_TAG, kind, rest)
    }
}

/// Reads an entry with its code.
fn read_entry(reply: &Reply, token: &TokenHash, key: &CacheKey) -> Option<Entry> {
    let (seq, account, text) = (reply.text(1).ok()?, reply.text(2).ok()?, reply.text(3).ok()?);
    let (mac, entry) = text.split_once(' ')?;
    let is_signed = key.is_mac(mac, &Signed { token, seq, account, entry });
    let entry: Entry = serde_json::from_str(entry).ok().filter(|_| is_signed)?;
    entry.is_in_time().then_some(entry)
}

impl Entry {
    /// By how much the clocks of two servers may differ.
    const SKEW: Duration = Duration::from_secs(300);

    /// Whether it was written in the time for which entries are kept: whoever can write to
    /// Redis can bring an old one back.
    fn is_in_time(&self) -> bool {
        let [kept, skew] = [SharedCache::KEPT, Self::SKEW].map(|time| time.as_millis() as i64);
        let age = now_ms().saturating_sub(self.read_at);
        -skew <= age && age <= kept + skew
    }

    pub(super) fn is_fresh(&self) -> bool {
        now_ms().saturating_sub(self.read_at) < SharedCache::FRESH.as_millis() as i64
    }
}

impl Notice {
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

    /// A cache, and the key of its servers.
    struct Kept(SharedCache, CacheKey);

    impl std::ops::Deref for Kept {
        type Target = SharedCache;

        fn deref(&self) -> &SharedCache {
            &self.0
        }
    }

    impl Kept {
        async fn keep(&self, hash: &TokenHash, seq: i64, caller: &Caller) -> Result<(), StoreError> {
            self.0.keep(hash, seq, caller, &self.1).await
        }
    }

    fn shared() -> Kept {
        let store = Store::Embedded(Arc::new(Embedded::new(BootClock::start()).unwrap()));
        Kept(SharedCache::new(store), CacheKey::generate())
    }

    async fn is_kept(cache: &Kept, hash: &TokenHash, caller: &Caller) -> bool {
        cache.find(hash, &cache.1).await.unwrap().is_some_and(|entry| entry.caller == *caller)
    }

    #[tokio::test]
    async fn an_entry_is_in_time_for_a_day() {
        let at = |age_ms: i64| Entry { caller: caller(), read_at: now_ms() - age_ms }.is_in_time();
        let day_ms = SharedCache::KEPT.as_millis() as i64;
        assert!(at(0) && at(day_ms) && at(-60_000));
        assert!(!at(day_ms + 600_000) && !at(-600_000) && !at(i64::MIN / 2));
    }

    /// A change of so many accounts, and of these.
    fn change(seq: i64, others: usize, accounts: &[AccountId]) -> Changes {
        let others = (0..others).map(|n| AccountId(Uuid::from_u128(n as u128)));
        Changes { seq, accounts: others.chain(accounts.iter().copied()).collect(), plans: false }
    }

    #[tokio::test]
    async fn what_was_forgotten_is_not_put_back_by_a_slow_reader() {
        let cache = shared();
        let (hash, caller) = (Token::generate().hash(), caller());
        let is_kept = async || is_kept(&cache, &hash, &caller).await;
        assert!(!is_kept().await);
        cache.keep(&hash, 1, &caller).await.unwrap();
        assert!(is_kept().await);

        // More accounts than one script takes.
        cache.forget(&change(5, 2 * SharedCache::FORGET_AT_ONCE, &[caller.account])).await.unwrap();
        assert!(!is_kept().await);
        cache.keep(&hash, 4, &caller).await.unwrap();
        assert!(!is_kept().await, "read before the change that was forgotten");
        cache.keep(&hash, 5, &caller).await.unwrap();
        assert!(is_kept().await);

        cache.forget(&Changes { seq: 6, plans: true, ..Changes::default() }).await.unwrap();
        assert!(!is_kept().await, "a plan has changed, and with it everything");
        cache.keep(&hash, 5, &caller).await.unwrap();
        assert!(!is_kept().await, "read before the plan changed");
        assert_eq!(cache.last_forgotten().await.unwrap(), 6);
    }

    #[tokio::test]
    async fn what_is_kept_of_an_account_outlives_changes_of_others() {
        let cache = shared();
        let (hash, caller) = (Token::generate().hash(), caller());
        for seq in 1..4 {
            cache.forget(&change(seq, 1, &[])).await.unwrap();
        }
        cache.keep(&hash, 1, &caller).await.unwrap();
        assert!(is_kept(&cache, &hash, &caller).await, "a reader that is slow, but whose account has not changed");
        cache.forget(&change(4, SharedCache::CHANGED_MAX, &[])).await.unwrap();
        assert!(is_kept(&cache, &hash, &caller).await);
    }

    #[tokio::test]
    async fn of_no_more_than_so_many_accounts_it_is_kept_when_they_changed() {
        static COUNT: Script = Script::new("test_zcard", "return {string.format('%d', redis.call('ZCARD', KEYS[1]))}");
        let cache = shared();
        let (early, late) = (caller(), caller());
        let [early_hash, late_hash] = [(); 2].map(|()| Token::generate().hash());
        cache.keep(&early_hash, 1, &early).await.unwrap();
        cache.forget(&change(2, 1, &[])).await.unwrap();
        cache.keep(&late_hash, 2, &late).await.unwrap();
        cache.forget(&change(3, SharedCache::ACCOUNTS_MAX + 1, &[])).await.unwrap();
        let others = (0..SharedCache::ACCOUNTS_MAX).map(|n| AccountId(Uuid::from_u128(1 << 64 | n as u128)));
        cache.forget(&Changes { seq: 4, accounts: others.collect(), plans: false }).await.unwrap();
        assert!(!is_kept(&cache, &early_hash, &early).await, "the floor has risen to a change after it was read");
        let kept = cache.store().key(ACCOUNTS_TAG, "floors", "");
        let reply = cache.store().run(&COUNT, &[&kept], &[]).await.unwrap();
        assert_eq!(reply.status(), SharedCache::ACCOUNTS_MAX.to_string());
        cache.keep(&late_hash, 4, &late).await.unwrap();
        assert!(is_kept(&cache, &late_hash, &late).await);
    }

    #[tokio::test]
    async fn all_servers_are_told_once_all_is_forgotten() {
        let cache = shared();
        let mut notices = cache.store().subscribe(&cache.channel());
        let changes = change(1, SharedCache::CHANGED_MAX, &[]);
        cache.forget(&changes).await.unwrap();
        let notice: Notice = serde_json::from_str(&notices.try_recv().unwrap()).unwrap();
        assert_eq!((notice.accounts.len(), notice.plans), (SharedCache::CHANGED_MAX, false));
        assert!(notices.try_recv().is_err(), "told twice");
        cache.forget(&change(2, 0, &[])).await.unwrap();
        assert!(notices.try_recv().is_err(), "nothing that anybody keeps has changed");
    }
}
