use std::{collections::HashMap, time::Duration};

use futures_util::future::try_join_all;

use super::{
    Locks, LocksError,
    keys::{bucket_key, held_key, lock_key, waiting_key},
    page::Found,
    request::{Answer, LockId, rate_args, read_standing, script},
    stored::read_holder,
};
use crate::{
    keyspace::{Reply, Script, Shard},
    lock::{AccountId, Holder, NamespaceId, Payment},
    mends::{self, Mend},
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// Takes a lock from the index of an account, unless the account holds it.
    pub(super) async fn correct_index(&self, shard: Shard, account: &str, place: &str) -> Result<(), LocksError> {
        if mends::is_on(Mend::IndexCorrected) {
            let keys = [held_key(&self.keyspace, shard, account), lock_key(&self.keyspace, place)];
            self.keyspace.run(&GRANTS, &[&keys[0], &keys[1]], &[account, place]).await?;
        }
        Ok(())
    }

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
        let asking = self.keyspace.shards().iter().map(|shard| self.find_places(*shard, request));
        let found = try_join_all(asking).await?;
        let Some(first) = found.first() else { return Err(Reply::default().bad().into()) };
        let standing = read_standing(first, &request.payment)?;
        let outcome = match first.status() {
            "found" => {
                let limit = request.limit.clamp(1, Self::PAGE_MAX);
                let found: Vec<Found> = found.iter().map(Found::read).collect::<Result<_, _>>()?;
                let (places, next) = Found::merge(found, limit);
                let places: Vec<&str> = places.iter().map(|cursor| cursor.place.as_str()).collect();
                Looked::Found(Page { locks: self.read_grants(request.account, &places).await?, next })
            }
            "rate_limited" => Looked::RateLimited { retry_after: Duration::from_micros(first.word(2)?) },
            _ => return Err(first.bad().into()),
        };
        Ok(Answer { outcome, standing })
    }

    /// Counts what an account holds and waits for.
    ///
    /// # Errors
    /// When the keyspace gave no answer in time.
    pub async fn census(&self, account: AccountId, payment: &Payment) -> Result<Answer<Looked<Census>>, LocksError> {
        let account = account.to_string();
        let asking = self.keyspace.shards().iter().map(|shard| self.census_in(*shard, &account, payment));
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
        let (held, waiting) = (held_key(&self.keyspace, shard, account), waiting_key(&self.keyspace, shard, account));
        let keys = [&*held, &waiting, &bucket_key(&self.keyspace, shard, payment)];
        let [interval_us, burst_us] = rate_args(payment);
        let reply = self.keyspace.run(&CENSUS, &keys, &[&interval_us, &burst_us]).await?;
        let outcome = match reply.status() {
            "counted" => Looked::Found(Census { held: reply.word(2)?, waiting: reply.word(3)? }),
            "rate_limited" => Looked::RateLimited { retry_after: Duration::from_micros(reply.word(2)?) },
            _ => return Err(reply.bad().into()),
        };
        Ok(Answer { outcome, standing: read_standing(&reply, payment)? })
    }

    async fn find_places(&self, shard: Shard, request: &ListRequest) -> Result<Reply, LocksError> {
        let held = held_key(&self.keyspace, shard, &request.account.to_string());
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
        Ok(self.keyspace.run(&LIST, &[&held, &bucket_key(&self.keyspace, shard, &request.payment)], &args).await?)
    }

    /// Reads the grants of these places. One that was released meanwhile is left
    /// out.
    async fn read_grants(&self, account: AccountId, places: &[&str]) -> Result<Vec<(LockId, Holder)>, LocksError> {
        let account = account.to_string();
        let asking = self.by_shard(places, |place| (*place).to_owned());
        let asking = asking.into_iter().map(async |(shard, (at, places))| {
            let read = self.read_grants_in(shard, &account, &places).await?;
            Ok::<_, LocksError>(at.into_iter().zip(read))
        });
        let mut read: Vec<_> = try_join_all(asking).await?.into_iter().flatten().collect();
        read.sort_by_key(|(at, _)| *at);
        Ok(read.into_iter().filter_map(|(_, read)| read).collect())
    }

    /// The same for places of one shard; nothing for one that was released.
    async fn read_grants_in(
        &self,
        shard: Shard,
        account: &str,
        places: &[&&str],
    ) -> Result<Vec<Option<(LockId, Holder)>>, LocksError> {
        let mut keys = vec![held_key(&self.keyspace, shard, account)];
        keys.extend(places.iter().map(|place| lock_key(&self.keyspace, place)));
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let args: Vec<&str> = std::iter::once(account).chain(places.iter().map(|place| **place)).collect();
        let reply = self.keyspace.run(&GRANTS, &keys, &args).await?;
        let read = places.iter().enumerate().map(|(at, place)| {
            let index = 1 + 3 * at;
            if reply.text(index + 2)?.is_empty() {
                return Ok(None);
            }
            let lock = place.parse().map_err(|_| reply.bad())?;
            Ok(Some((lock, read_holder(&reply, index + 2, index + 1)?)))
        });
        read.collect()
    }

    /// Parts what is asked for by the shards where it is, with the place that each
    /// had among all.
    pub(super) fn by_shard<'a, T>(
        &self,
        all: &'a [T],
        place: impl Fn(&T) -> String,
    ) -> HashMap<Shard, (Vec<usize>, Vec<&'a T>)> {
        let mut parts = HashMap::<_, (Vec<usize>, Vec<&T>)>::new();
        for (at, one) in all.iter().enumerate() {
            let part = parts.entry(self.keyspace.shard_of(&place(one))).or_default();
            part.0.push(at);
            part.1.push(one);
        }
        parts
    }
}
