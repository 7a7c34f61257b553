use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use futures_util::future::try_join_all;

use super::{
    Locks, LocksError,
    grant_codec::read_holder,
    keys::{bucket_key, grant_key, held_key, waiting_key},
    merged_page::ShardPage,
    requests::{LockKey, WithRate, rate_args, read_rate_status, script},
};
use crate::{
    lock::{AccountId, Holder, NamespaceId, RateCharge},
    safeguards::{self, Safeguard},
    store::{Reply, Script, Shard},
};

static LIST: Script = script!("list");
static READ_GRANTS: Script = script!("read_grants");
static USAGE: Script = script!("usage");

/// The parameters of a list of held locks.
#[derive(Clone, Debug)]
pub struct ListRequest {
    pub account: AccountId,
    /// One namespace; `None` for all namespaces.
    pub namespace: Option<NamespaceId>,
    /// The prefix of lock names.
    pub prefix: String,
    /// The size of the page: 1 to [`Locks::PAGE_MAX`].
    pub limit: usize,
    /// Where the previous page ended.
    pub after: Option<Cursor>,
}

/// The end of a page: the expiry and the key of its last lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub expires_ms: u64,
    pub lock_key: String,
}

/// The outcome of a read, which the rate can refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome<T> {
    Found(T),
    RateLimited { retry_after: Duration },
}

/// A page of the locks that an account holds, in order of expiry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockPage {
    pub locks: Vec<(LockKey, Holder)>,
    /// The cursor of the next page; `None` at the end.
    pub next: Option<Cursor>,
}

/// How much of its quotas an account uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The number of held locks.
    pub held: u64,
    /// The number of queued requests.
    pub waiting: u64,
}

/// A page that is read in steps, so that every script is short and every step is charged to
/// the rate. It may end after any step.
pub struct Listing<'a> {
    locks: &'a Locks,
    request: ListRequest,
    steps: u32,
    /// Locks found and not read yet.
    found: VecDeque<Cursor>,
    /// Where to continue the scan; `None` at the end.
    end: Option<Cursor>,
    page: LockPage,
    is_done: bool,
}

impl Listing<'_> {
    /// Whether the page is full or complete.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// The page as read so far.
    pub fn into_page(self) -> LockPage {
        self.page
    }

    /// Reads up to [`Locks::STEP_LOCKS`] more locks.
    ///
    /// Only the scan can charge the rate in its script. In a cluster one scan finds locks for
    /// several steps, whose charge must be [`RateCharge::Done`]; there it always is.
    ///
    /// # Errors
    /// The store returned no answer in time.
    pub async fn step(&mut self, charge: &RateCharge) -> Result<WithRate<ReadOutcome<()>>, LocksError> {
        let mut rate = None;
        if self.found.is_empty() {
            let WithRate { outcome, rate: found } = self.find(charge).await?;
            rate = found;
            if let ReadOutcome::RateLimited { retry_after } = outcome {
                return Ok(WithRate { outcome: ReadOutcome::RateLimited { retry_after }, rate });
            }
        }
        let part: Vec<Cursor> = self.found.drain(..self.found.len().min(Locks::STEP_LOCKS)).collect();
        let lock_keys: Vec<&str> = part.iter().map(|cursor| cursor.lock_key.as_str()).collect();
        self.page.locks.extend(self.locks.read_grants(self.request.account, &lock_keys).await?);
        self.page.next = if self.found.is_empty() { self.end.clone() } else { part.last().cloned() };
        self.steps += 1;
        self.is_done = self.wanted() == 0 || self.page.next.is_none() || self.steps >= Locks::STEPS_MAX;
        Ok(WithRate { outcome: ReadOutcome::Found(()), rate })
    }

    /// The number of locks that the page lacks.
    fn wanted(&self) -> usize {
        self.request.limit.clamp(1, Locks::PAGE_MAX).saturating_sub(self.page.locks.len())
    }

    /// Scans for more lock keys.
    async fn find(&mut self, charge: &RateCharge) -> Result<WithRate<ReadOutcome<()>>, LocksError> {
        let (locks, wanted) = (self.locks, self.wanted());
        let shards = locks.store.shards();
        let asking =
            shards.iter().map(|shard| locks.find_lock_keys(*shard, &self.request, self.end.as_ref(), wanted, charge));
        let found = try_join_all(asking).await?;
        let Some(first) = found.first() else { return Err(Reply::default().bad().into()) };
        let rate = read_rate_status(first, charge)?;
        let outcome = match first.status() {
            "found" => {
                let found: Vec<ShardPage> = found.iter().map(ShardPage::read).collect::<Result<_, _>>()?;
                let (lock_keys, end) = ShardPage::merge(found, wanted);
                (self.found, self.end) = (lock_keys.into(), end);
                ReadOutcome::Found(())
            }
            "rate_limited" => ReadOutcome::RateLimited { retry_after: Duration::from_micros(first.word(2)?) },
            _ => return Err(first.bad().into()),
        };
        Ok(WithRate { outcome, rate })
    }
}

impl Locks {
    /// The longest page, in locks.
    pub const PAGE_MAX: usize = 1000;
    /// The number of locks that one request of the rate covers, and that one script reads.
    pub const STEP_LOCKS: usize = 20;
    /// The number of steps of one page. With a rare prefix the page may end before it is full.
    pub const STEPS_MAX: u32 = 60;
    /// The number of index entries that one script scans.
    const SCAN_MAX: usize = 50;

    /// Removes a lock from an account's index unless the account holds it.
    pub(super) async fn correct_index(&self, shard: Shard, account: &str, lock_key: &str) -> Result<(), LocksError> {
        if safeguards::is_on(Safeguard::IndexCorrected) {
            let keys = [held_key(&self.store, shard, account), grant_key(&self.store, lock_key)];
            self.store.eval(&READ_GRANTS, &[&keys[0], &keys[1]], &[account, lock_key]).await?;
        }
        Ok(())
    }

    /// Begins a list of the locks that an account holds. A lock that is renewed between two
    /// pages may be on both.
    ///
    /// The list reads the index that the quota is counted by, so it adds no cost to acquires
    /// and releases. It removes index entries of locks that are no longer held.
    pub fn list(&self, request: ListRequest) -> Listing<'_> {
        let next = request.after.clone();
        Listing {
            locks: self,
            request,
            steps: 0,
            found: VecDeque::new(),
            end: next.clone(),
            page: LockPage { locks: Vec::new(), next },
            is_done: false,
        }
    }

    /// Lists a page of held locks without a charge to the rate.
    ///
    /// # Errors
    /// The store returned no answer in time.
    pub async fn list_uncounted(&self, request: ListRequest) -> Result<LockPage, LocksError> {
        let mut listing = self.list(request);
        while !listing.is_done() {
            listing.step(&RateCharge::Done).await?;
        }
        Ok(listing.into_page())
    }

    /// Counts the held locks and queued requests of an account.
    ///
    /// # Errors
    /// The store returned no answer in time.
    pub async fn usage(
        &self,
        account: AccountId,
        charge: &RateCharge,
    ) -> Result<WithRate<ReadOutcome<Usage>>, LocksError> {
        let account = account.to_string();
        let asking = self.store.shards().iter().map(|shard| self.usage_in(*shard, &account, charge));
        let mut all = try_join_all(asking).await?.into_iter();
        let Some(mut sum) = all.next() else { return Err(Reply::default().bad().into()) };
        for WithRate { outcome, .. } in all {
            if let (ReadOutcome::Found(sum), ReadOutcome::Found(usage)) = (&mut sum.outcome, outcome) {
                sum.held += usage.held;
                sum.waiting += usage.waiting;
            }
        }
        Ok(sum)
    }

    async fn usage_in(
        &self,
        shard: Shard,
        account: &str,
        charge: &RateCharge,
    ) -> Result<WithRate<ReadOutcome<Usage>>, LocksError> {
        let (held, waiting) = (held_key(&self.store, shard, account), waiting_key(&self.store, shard, account));
        let keys = [&*held, &waiting, &bucket_key(&self.store, shard, charge)];
        let [interval_us, burst_us] = rate_args(charge);
        let reply = self.store.eval(&USAGE, &keys, &[&interval_us, &burst_us]).await?;
        let outcome = match reply.status() {
            "counted" => ReadOutcome::Found(Usage { held: reply.word(2)?, waiting: reply.word(3)? }),
            "rate_limited" => ReadOutcome::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
            _ => return Err(reply.bad().into()),
        };
        Ok(WithRate { outcome, rate: read_rate_status(&reply, charge)? })
    }

    async fn find_lock_keys(
        &self,
        shard: Shard,
        request: &ListRequest,
        after: Option<&Cursor>,
        limit: usize,
        charge: &RateCharge,
    ) -> Result<Reply, LocksError> {
        let held = held_key(&self.store, shard, &request.account.to_string());
        let [interval_us, burst_us] = rate_args(charge);
        let namespace = request.namespace.map(|namespace| namespace.to_string()).unwrap_or_default();
        let (after_ms, after_key) = match after {
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
            after_key,
        ];
        Ok(self.store.eval(&LIST, &[&held, &bucket_key(&self.store, shard, charge)], &args).await?)
    }

    /// Reads the grants of these locks. Omits locks that were released meanwhile.
    async fn read_grants(&self, account: AccountId, lock_keys: &[&str]) -> Result<Vec<(LockKey, Holder)>, LocksError> {
        let account = account.to_string();
        let asking = self.group_by_shard(lock_keys, |lock_key| (*lock_key).to_owned());
        let asking = asking.into_iter().map(async |(shard, (at, lock_keys))| {
            let read = self.read_grants_in(shard, &account, &lock_keys).await?;
            Ok::<_, LocksError>(at.into_iter().zip(read))
        });
        let mut read: Vec<_> = try_join_all(asking).await?.into_iter().flatten().collect();
        read.sort_by_key(|(at, _)| *at);
        Ok(read.into_iter().filter_map(|(_, read)| read).collect())
    }

    /// Does the same for locks of one shard; `None` for a released lock.
    async fn read_grants_in(
        &self,
        shard: Shard,
        account: &str,
        lock_keys: &[&&str],
    ) -> Result<Vec<Option<(LockKey, Holder)>>, LocksError> {
        let mut keys = vec![held_key(&self.store, shard, account)];
        keys.extend(lock_keys.iter().map(|lock_key| grant_key(&self.store, lock_key)));
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let args: Vec<&str> = std::iter::once(account).chain(lock_keys.iter().map(|lock_key| **lock_key)).collect();
        let reply = self.store.eval(&READ_GRANTS, &keys, &args).await?;
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

    /// Groups items by the shard of their lock key, with their indexes in `all`.
    pub(super) fn group_by_shard<'a, T>(
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
