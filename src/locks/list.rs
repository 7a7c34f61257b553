use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use futures_util::future::try_join_all;

use super::{
    Locks, LocksError,
    grant_codec::read_holder,
    keys::{bucket_key, grant_key, held_key, waiting_key},
    merged_page::Found,
    requests::{Answer, LockId, rate_args, read_standing, script},
};
use crate::{
    lock::{AccountId, Holder, NamespaceId, Payment},
    mends::{self, Mend},
    store::{Reply, Script, Shard},
};

static LIST: Script = script!("list");
static GRANTS: Script = script!("read_grants");
static CENSUS: Script = script!("usage");

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
}

/// Where a page ends: the last lock on it, and when its lease lapses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub expires_ms: u64,
    pub lock_key: String,
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

/// A page that is read step by step: no script has much to do, and each step is paid
/// for. It may end after any of them.
pub struct Listing<'a> {
    locks: &'a Locks,
    request: ListRequest,
    steps: u32,
    /// What the next steps read.
    found: VecDeque<Cursor>,
    /// Where to look for more; `None` when there is nothing.
    end: Option<Cursor>,
    page: Page,
    is_done: bool,
}

impl Listing<'_> {
    /// Whether the page is full, or there is nothing more to be read for it.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// The page as far as it was read.
    pub fn into_page(self) -> Page {
        self.page
    }

    /// Reads [`Locks::STEP_LOCKS`] more locks at most.
    ///
    /// Only what finds them can be charged for, so what several shards have found at once
    /// has to be paid for by permits. There it always is.
    ///
    /// # Errors
    /// When the store gave no answer in time.
    pub async fn step(&mut self, payment: &Payment) -> Result<Answer<Looked<()>>, LocksError> {
        let mut standing = None;
        if self.found.is_empty() {
            let Answer { outcome, standing: found } = self.find(payment).await?;
            standing = found;
            if let Looked::RateLimited { retry_after } = outcome {
                return Ok(Answer { outcome: Looked::RateLimited { retry_after }, standing });
            }
        }
        let part: Vec<Cursor> = self.found.drain(..self.found.len().min(Locks::STEP_LOCKS)).collect();
        let lock_keys: Vec<&str> = part.iter().map(|cursor| cursor.lock_key.as_str()).collect();
        self.page.locks.extend(self.locks.read_grants(self.request.account, &lock_keys).await?);
        self.page.next = if self.found.is_empty() { self.end.clone() } else { part.last().cloned() };
        self.steps += 1;
        self.is_done = self.wanted() == 0 || self.page.next.is_none() || self.steps >= Locks::STEPS_MAX;
        Ok(Answer { outcome: Looked::Found(()), standing })
    }

    /// How many locks are not on the page yet.
    fn wanted(&self) -> usize {
        self.request.limit.clamp(1, Locks::PAGE_MAX).saturating_sub(self.page.locks.len())
    }

    /// Finds lock keys of locks, behind what was read.
    async fn find(&mut self, payment: &Payment) -> Result<Answer<Looked<()>>, LocksError> {
        let (locks, wanted) = (self.locks, self.wanted());
        let shards = locks.store.shards();
        let asking =
            shards.iter().map(|shard| locks.find_lock_keys(*shard, &self.request, self.end.as_ref(), wanted, payment));
        let found = try_join_all(asking).await?;
        let Some(first) = found.first() else { return Err(Reply::default().bad().into()) };
        let standing = read_standing(first, payment)?;
        let outcome = match first.status() {
            "found" => {
                let found: Vec<Found> = found.iter().map(Found::read).collect::<Result<_, _>>()?;
                let (lock_keys, end) = Found::merge(found, wanted);
                (self.found, self.end) = (lock_keys.into(), end);
                Looked::Found(())
            }
            "rate_limited" => Looked::RateLimited { retry_after: Duration::from_micros(first.word(2)?) },
            _ => return Err(first.bad().into()),
        };
        Ok(Answer { outcome, standing })
    }
}

impl Locks {
    /// The longest page, in locks.
    pub const PAGE_MAX: usize = 1000;
    /// How many locks of a page one request of the rate pays for. No script reads more.
    pub const STEP_LOCKS: usize = 20;
    /// In how many steps a page is read. One with a prefix that few locks have may end
    /// before it is full.
    pub const STEPS_MAX: u32 = 60;
    /// How many lock keys a script looks at for locks that are to be listed.
    const SCAN_MAX: usize = 50;

    /// Takes a lock from the index of an account, unless the account holds it.
    pub(super) async fn correct_index(&self, shard: Shard, account: &str, lock_key: &str) -> Result<(), LocksError> {
        if mends::is_on(Mend::IndexCorrected) {
            let keys = [held_key(&self.store, shard, account), grant_key(&self.store, lock_key)];
            self.store.run(&GRANTS, &[&keys[0], &keys[1]], &[account, lock_key]).await?;
        }
        Ok(())
    }

    /// Begins to list locks that an account holds. A lock that is renewed between two
    /// pages may stand on both.
    ///
    /// The index that is read is what the plan's number of locks is counted by,
    /// so it costs acquires and releases nothing of its own. What it has and is
    /// not held any more is taken out of it here.
    pub fn list(&self, request: ListRequest) -> Listing<'_> {
        let next = request.after.clone();
        Listing {
            locks: self,
            request,
            steps: 0,
            found: VecDeque::new(),
            end: next.clone(),
            page: Page { locks: Vec::new(), next },
            is_done: false,
        }
    }

    /// Lists a page of locks that an account holds, without counting it.
    ///
    /// # Errors
    /// When the store gave no answer in time.
    pub async fn list_uncounted(&self, request: ListRequest) -> Result<Page, LocksError> {
        let mut listing = self.list(request);
        while !listing.is_done() {
            listing.step(&Payment::Paid).await?;
        }
        Ok(listing.into_page())
    }

    /// Counts what an account holds and waits for.
    ///
    /// # Errors
    /// When the store gave no answer in time.
    pub async fn census(&self, account: AccountId, payment: &Payment) -> Result<Answer<Looked<Census>>, LocksError> {
        let account = account.to_string();
        let asking = self.store.shards().iter().map(|shard| self.census_in(*shard, &account, payment));
        let mut all = try_join_all(asking).await?.into_iter();
        let Some(mut sum) = all.next() else { return Err(Reply::default().bad().into()) };
        for Answer { outcome, .. } in all {
            if let (Looked::Found(sum), Looked::Found(census)) = (&mut sum.outcome, outcome) {
                sum.held += census.held;
                sum.waiting += census.waiting;
            }
        }
        Ok(sum)
    }

    async fn census_in(
        &self,
        shard: Shard,
        account: &str,
        payment: &Payment,
    ) -> Result<Answer<Looked<Census>>, LocksError> {
        let (held, waiting) = (held_key(&self.store, shard, account), waiting_key(&self.store, shard, account));
        let keys = [&*held, &waiting, &bucket_key(&self.store, shard, payment)];
        let [interval_us, burst_us] = rate_args(payment);
        let reply = self.store.run(&CENSUS, &keys, &[&interval_us, &burst_us]).await?;
        let outcome = match reply.status() {
            "counted" => Looked::Found(Census { held: reply.word(2)?, waiting: reply.word(3)? }),
            "rate_limited" => Looked::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
            _ => return Err(reply.bad().into()),
        };
        Ok(Answer { outcome, standing: read_standing(&reply, payment)? })
    }

    async fn find_lock_keys(
        &self,
        shard: Shard,
        request: &ListRequest,
        after: Option<&Cursor>,
        limit: usize,
        payment: &Payment,
    ) -> Result<Reply, LocksError> {
        let held = held_key(&self.store, shard, &request.account.to_string());
        let [interval_us, burst_us] = rate_args(payment);
        let namespace = request.namespace.map(|namespace| namespace.to_string()).unwrap_or_default();
        let (after_ms, after_place) = match after {
            Some(cursor) => (cursor.expires_ms, cursor.lock_key.as_str()),
            None => (0, ""),
        };
        let args = [
            &*interval_us,
            &burst_us,
            &namespace,
            &request.prefix,
            &limit.min(Self::STEP_LOCKS).to_string(),
            &Self::SCAN_MAX.to_string(),
            &after_ms.to_string(),
            after_place,
        ];
        Ok(self.store.run(&LIST, &[&held, &bucket_key(&self.store, shard, payment)], &args).await?)
    }

    /// Reads the grants of these lock keys. One that was released meanwhile is left
    /// out.
    async fn read_grants(&self, account: AccountId, lock_keys: &[&str]) -> Result<Vec<(LockId, Holder)>, LocksError> {
        let account = account.to_string();
        let asking = self.by_shard(lock_keys, |lock_key| (*lock_key).to_owned());
        let asking = asking.into_iter().map(async |(shard, (at, lock_keys))| {
            let read = self.read_grants_in(shard, &account, &lock_keys).await?;
            Ok::<_, LocksError>(at.into_iter().zip(read))
        });
        let mut read: Vec<_> = try_join_all(asking).await?.into_iter().flatten().collect();
        read.sort_by_key(|(at, _)| *at);
        Ok(read.into_iter().filter_map(|(_, read)| read).collect())
    }

    /// The same for lock keys of one shard; nothing for one that was released.
    async fn read_grants_in(
        &self,
        shard: Shard,
        account: &str,
        lock_keys: &[&&str],
    ) -> Result<Vec<Option<(LockId, Holder)>>, LocksError> {
        let mut keys = vec![held_key(&self.store, shard, account)];
        keys.extend(lock_keys.iter().map(|lock_key| grant_key(&self.store, lock_key)));
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let args: Vec<&str> = std::iter::once(account).chain(lock_keys.iter().map(|lock_key| **lock_key)).collect();
        let reply = self.store.run(&GRANTS, &keys, &args).await?;
        let read = lock_keys.iter().enumerate().map(|(at, lock_key)| {
            let index = 1 + 3 * at;
            if reply.text(index + 2)?.is_empty() {
                return Ok(None);
            }
            let lock = lock_key.parse().map_err(|_| reply.bad())?;
            Ok(Some((lock, read_holder(&reply, index + 2, index + 1)?)))
        });
        read.collect()
    }

    /// Parts what is asked for by the shards where it is, with the lock key that each
    /// had among all.
    pub(super) fn by_shard<'a, T>(
        &self,
        all: &'a [T],
        lock_key: impl Fn(&T) -> String,
    ) -> HashMap<Shard, (Vec<usize>, Vec<&'a T>)> {
        let mut parts = HashMap::<_, (Vec<usize>, Vec<&T>)>::new();
        for (at, one) in all.iter().enumerate() {
            let part = parts.entry(self.store.shard_of(&lock_key(one))).or_default();
            part.0.push(at);
            part.1.push(one);
        }
        parts
    }
}
