use std::time::Duration;

use super::{
    Locks, LocksError,
    request::{Answer, LockId, bucket_key, held_key, lock_key, rate_args, read_standing, script, waiting_key},
    stored::read_holder,
};
use crate::{
    keyspace::{Reply, Script},
    lock::{AccountId, Holder, NamespaceId, Payment},
};

static LIST: Script = script!("list");
static GRANTS: Script = script!("grants");
static CENSUS: Script = script!("census");

/// Which locks of an account to list.
#[derive(Clone, Debug)]
pub struct ListRequest {
    pub account: AccountId,
    /// In one namespace; `None` for all of the account's.
    pub namespace: Option<NamespaceId>,
    /// What names begin with.
    pub prefix: String,
    /// How many at most: 1 to [`Locks::PAGE_MAX`].
    pub limit: usize,
    /// Only what comes behind this one.
    pub after: Option<Cursor>,
    pub payment: Payment,
}

/// Where a page ends: the last lock on it, and when its lease lapses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub expires_ms: u64,
    pub place: String,
}

/// What became of a request to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked<T> {
    Found(T),
    RateLimited { retry_after: Duration },
}

/// Some of the locks that an account holds, those that lapse first first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub locks: Vec<(LockId, Holder)>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// How much of its plan an account uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// How many locks it holds.
    pub held: u64,
    /// With how many requests it waits.
    pub waiting: u64,
}

impl Locks {
    /// The longest page, in locks.
    pub const PAGE_MAX: usize = 1000;
    /// How many places are looked at for a page. One with a prefix that few
    /// locks have may end before it is full.
    pub const SCAN_MAX: usize = 2000;

    /// Lists locks that an account holds. A lock that is renewed between two
    /// pages may stand on both.
    ///
    /// The index that is read is what the plan's number of locks is counted by,
    /// so it costs acquires and releases nothing of its own. What it has and is
    /// not held any more is taken out of it here.
    ///
    /// # Errors
    /// When the keyspace gave no answer in time.
    pub async fn list(&self, request: &ListRequest) -> Result<Answer<Looked<Page>>, LocksError> {
        let reply = self.find_places(request).await?;
        let standing = read_standing(&reply, &request.payment)?;
        let outcome = match reply.status() {
            "found" => {
                let places: Vec<&str> = reply.texts(4).collect();
                let next = Some(reply.text(2)?).filter(|ms| !ms.is_empty());
                let next = next
                    .map(|_| Ok::<_, LocksError>(Cursor { expires_ms: reply.word(2)?, place: reply.text(3)?.into() }));
                let locks = self.read_grants(request.account, &places).await?;
                Looked::Found(Page { locks, next: next.transpose()? })
            }
            "rate_limited" => Looked::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
            _ => return Err(reply.bad().into()),
        };
        Ok(Answer { outcome, standing })
    }

    /// Counts what an account holds and waits for.
    ///
    /// # Errors
    /// When the keyspace gave no answer in time.
    pub async fn census(&self, account: AccountId, payment: &Payment) -> Result<Answer<Looked<Census>>, LocksError> {
        let account = account.to_string();
        let (held, waiting) = (held_key(&self.keyspace, &account), waiting_key(&self.keyspace, &account));
        let keys = [&*held, &waiting, &bucket_key(&self.keyspace, payment)];
        let [interval_us, burst_us] = rate_args(payment);
        let reply = self.keyspace.run(&CENSUS, &keys, &[&interval_us, &burst_us]).await?;
        let outcome = match reply.status() {
            "counted" => Looked::Found(Census { held: reply.word(2)?, waiting: reply.word(3)? }),
            "rate_limited" => Looked::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
            _ => return Err(reply.bad().into()),
        };
        Ok(Answer { outcome, standing: read_standing(&reply, payment)? })
    }

    async fn find_places(&self, request: &ListRequest) -> Result<Reply, LocksError> {
        let held = held_key(&self.keyspace, &request.account.to_string());
        let [interval_us, burst_us] = rate_args(&request.payment);
        let namespace = request.namespace.map(|namespace| namespace.to_string()).unwrap_or_default();
        let (after_ms, after_place) = match &request.after {
            Some(cursor) => (cursor.expires_ms, cursor.place.as_str()),
            None => (0, ""),
        };
        let args = [
            &*interval_us,
            &burst_us,
            &namespace,
            &request.prefix,
            &request.limit.clamp(1, Self::PAGE_MAX).to_string(),
            &Self::SCAN_MAX.to_string(),
            &after_ms.to_string(),
            after_place,
        ];
        Ok(self.keyspace.run(&LIST, &[&held, &bucket_key(&self.keyspace, &request.payment)], &args).await?)
    }

    /// Reads the grants of these places. One that was released meanwhile is left
    /// out.
    async fn read_grants(&self, account: AccountId, places: &[&str]) -> Result<Vec<(LockId, Holder)>, LocksError> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let account = account.to_string();
        let mut keys = vec![held_key(&self.keyspace, &account)];
        keys.extend(places.iter().map(|place| lock_key(&self.keyspace, place)));
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let args: Vec<&str> = std::iter::once(&*account).chain(places.iter().copied()).collect();
        let reply = self.keyspace.run(&GRANTS, &keys, &args).await?;
        let mut locks = Vec::new();
        for (at, place) in places.iter().enumerate() {
            let index = 1 + 3 * at;
            if !reply.text(index + 2)?.is_empty() {
                let lock = place.parse().map_err(|_| reply.bad())?;
                locks.push((lock, read_holder(&reply, index + 2, index + 1)?));
            }
        }
        Ok(locks)
    }
}
