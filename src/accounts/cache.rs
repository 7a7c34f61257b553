use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Caller, TokenHash, change::now_ms, lookup::Changes};
use crate::{
    keyspace::{ACCOUNTS_TAG, Keyspace, KeyspaceError, Script},
    lock::AccountId,
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

/// What is kept of tokens in the keyspace, for all servers.
#[derive(Clone)]
pub(super) struct SharedCache {
    keyspace: Keyspace,
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
    /// How many entries one script forgets one by one: Redis does nothing else
    /// meanwhile. All tokens of an account are fewer.
    pub(super) const FORGET_MAX: usize = 2000;

    pub(super) fn new(keyspace: Keyspace) -> Self {
        Self { keyspace }
    }

    pub(super) fn channel(&self) -> String {
        self.key("changes", "")
    }

    pub(super) fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    /// Whether it may be away while locks are there: on another node of a cluster.
    pub(super) fn is_apart_from_locks(&self) -> bool {
        self.keyspace.is_spread()
    }

    pub(super) async fn find(&self, hash: &TokenHash) -> Result<Option<Entry>, KeyspaceError> {
        if self.is_apart_from_locks() && !self.keyspace.has_accounts() {
            return Err(KeyspaceError::NotSent("the node that has accounts is away".into()));
        }
        let keys = [&*self.key("token", &hash.to_string()), &self.key("floor", "")];
        let reply = self.keyspace.run(&FIND, &keys, &[]).await?;
        // What an older or newer server wrote may not be readable; it is read
        // from the database then.
        Ok(reply.text(1).ok().and_then(|entry| serde_json::from_str(entry).ok()))
    }

    pub(super) async fn keep(&self, hash: &TokenHash, seq: i64, caller: &Caller) -> Result<(), KeyspaceError> {
        let entry = Entry { caller: caller.clone(), read_at: now_ms() };
        let Ok(entry) = serde_json::to_string(&entry) else { return Ok(()) };
        let keys = [&*self.key("token", &hash.to_string()), &self.key("revision", "")];
        let args = [&*seq.to_string(), &Self::KEPT.as_millis().to_string(), &entry];
        self.keyspace.run(&KEEP, &keys, &args).await.map(drop)
    }

    /// The number of the last change that was forgotten here.
    pub(super) async fn last_forgotten(&self) -> Result<i64, KeyspaceError> {
        self.run_forget(0, false, "", &[]).await
    }

    /// Forgets what the changes have made untrue, and tells all servers. It is
    /// one script: a server that stops half-way leaves nothing half forgotten.
    /// Where that would be too many entries, all are forgotten.
    pub(super) async fn forget(&self, changes: &Changes) -> Result<(), KeyspaceError> {
        let is_all = changes.plans || changes.hashes.len() > Self::FORGET_MAX;
        let hashes = if is_all { &[] } else { &*changes.hashes };
        let notice = Notice { accounts: changes.accounts.iter().copied().collect(), plans: changes.plans };
        self.run_forget(changes.seq, is_all, &notice.to_text(), hashes).await.map(drop)
    }

    /// Forgets a token that the database does not know any more.
    pub(super) async fn forget_token(&self, hash: &TokenHash) -> Result<(), KeyspaceError> {
        self.run_forget(0, false, "", &[hash.to_string()]).await.map(drop)
    }

    async fn run_forget(&self, seq: i64, is_all: bool, message: &str, hashes: &[String]) -> Result<i64, KeyspaceError> {
        let entries = hashes.iter().map(|hash| self.key("token", hash));
        let keys: Vec<String> = [self.key("revision", ""), self.key("floor", "")].into_iter().chain(entries).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let args = [&*seq.to_string(), if is_all { "1" } else { "0" }, &self.channel(), message];
        let reply = self.keyspace.run(&FORGET, &keys, &args).await?;
        reply.word(1).map_err(|bad| KeyspaceError::Refused(bad.to_string()))
    }

    /// All of one hash slot: a script forgets an entry and its number at once.
    fn key(&self, kind: &str, rest: &str) -> String {
        self.keyspace.key(ACCOUNTS_TAG, kind, rest)
    }
}

impl Entry {
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
        keyspace::{BootClock, Embedded},
        lock::{Label, Lease, NamespaceId, Rate},
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

    #[tokio::test]
    async fn what_was_forgotten_is_not_put_back_by_a_slow_reader() {
        let cache = SharedCache::new(Keyspace::Embedded(Arc::new(Embedded::new(BootClock::start()).unwrap())));
        let (hash, caller) = (Token::generate().hash(), caller());
        let is_kept = async || cache.find(&hash).await.unwrap().is_some_and(|entry| entry.caller == caller);
        let forget = async |seq, plans| {
            // More entries than one script takes.
            let others = (0..=SharedCache::FORGET_MAX).map(|n| n.to_string());
            let hashes = others.chain([hash.to_string()]).collect();
            cache.forget(&Changes { seq, plans, hashes, ..Changes::default() }).await.unwrap();
        };
        assert!(!is_kept().await);
        cache.keep(&hash, 1, &caller).await.unwrap();
        assert!(is_kept().await);

        forget(5, false).await;
        assert!(!is_kept().await);
        cache.keep(&hash, 4, &caller).await.unwrap();
        assert!(!is_kept().await, "read before the change that was forgotten");
        cache.keep(&hash, 5, &caller).await.unwrap();
        assert!(is_kept().await);

        cache.forget(&Changes { seq: 6, plans: true, ..Changes::default() }).await.unwrap();
        assert!(!is_kept().await, "a plan has changed, and with it everything");
        assert_eq!(cache.last_forgotten().await.unwrap(), 6);
    }

    #[tokio::test]
    async fn all_servers_are_told_once_all_is_forgotten() {
        let cache = SharedCache::new(Keyspace::Embedded(Arc::new(Embedded::new(BootClock::start()).unwrap())));
        let mut notices = cache.keyspace().subscribe(&cache.channel());
        let account = AccountId(Uuid::new_v4());
        let hashes = (0..SharedCache::FORGET_MAX * 2).map(|n| n.to_string()).collect();
        let changes = Changes { seq: 1, accounts: [account].into(), plans: false, hashes };
        cache.forget(&changes).await.unwrap();
        let notice: Notice = serde_json::from_str(&notices.try_recv().unwrap()).unwrap();
        assert_eq!((notice.accounts, notice.plans), (vec![account], false));
        assert!(notices.try_recv().is_err(), "told twice");
    }
}
