use futures_util::future::try_join_all;

use crate::locks::{
    LockKey, Locks, LocksError,
    grant_codec::read_acquirer,
    requests::{Keys, script},
};
use crate::{
    lock::{AccountId, RateCharge},
    store::Script,
};

static LIST_WAITERS: Script = script!("list_waiters");

/// The queue of a lock, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaiterList {
    /// The number of queue entries.
    pub waiting: u64,
    /// The first [`Locks::WAITERS_NAMED_MAX`] of them.
    pub first: Vec<Waiter>,
}

/// A queued request, with the details that an account may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// A request of the same account; `owner` may be empty.
    Own {
        owner: String,
        label: String,
        note: String,
    },
    OfAnotherAccount,
}

impl Locks {
    /// How many requests of a queue are returned with details.
    pub const WAITERS_NAMED_MAX: usize = 5;

    /// Reads the queues of these locks, at most one page, as the account may see them, in the same order.
    ///
    /// # Errors
    /// The store returned no answer in time.
    pub async fn list_waiters(&self, account: AccountId, locks: &[LockKey]) -> Result<Vec<WaiterList>, LocksError> {
        let asking = self.group_by_shard(locks, LockKey::to_string);
        let found = try_join_all(asking.into_values().map(async |(lock_keys, locks)| {
            Ok::<_, LocksError>(lock_keys.into_iter().zip(self.list_waiters_in(account, &locks).await?))
        }));
        let mut found: Vec<_> = found.await?.into_iter().flatten().collect();
        found.sort_by_key(|(lock_key, _)| *lock_key);
        Ok(found.into_iter().map(|(_, list)| list).collect())
    }

    /// Does the same for locks of one shard.
    async fn list_waiters_in(&self, account: AccountId, locks: &[&LockKey]) -> Result<Vec<WaiterList>, LocksError> {
        let keys = locks.iter().flat_map(|lock| {
            let keys = Keys::new(&self.store, &lock.to_string(), "-", &RateCharge::Done);
            [keys.queue().to_owned(), keys.entries().to_owned()]
        });
        let keys: Vec<String> = keys.collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let reply = self.store.eval(&LIST_WAITERS, &keys, &[&Self::WAITERS_NAMED_MAX.to_string()]).await?;
        let mut lists = Vec::with_capacity(locks.len());
        let mut index = 1;
        for _ in locks {
            let (waiting, named): (u64, usize) = (reply.word(index)?, reply.word(index + 1)?);
            let mut first = Vec::with_capacity(named);
            for at in 0..named {
                let (member, entry) = (reply.text(index + 2 + 2 * at)?, reply.text(index + 3 + 2 * at)?);
                first.push(Waiter::read(account, member, entry));
            }
            index += 2 + 2 * named;
            lists.push(WaiterList { waiting, first });
        }
        Ok(lists)
    }
}

impl Waiter {
    /// Decodes a queue entry, in the layout that `lua/keys.lua` describes.
    fn read(account: AccountId, member: &str, entry: &str) -> Self {
        let mut member_fields = member.split('\n');
        if member_fields.next() != Some(&*account.to_string()) {
            return Self::OfAnotherAccount;
        }
        let owner = member_fields.next().unwrap_or_default().to_owned();
        let mut entry_fields = entry.split('\n').skip(4).map(str::to_owned);
        let label = entry_fields.next().unwrap_or_default();
        let label = read_acquirer(&label).0.to_owned();
        Self::Own { owner, label, note: entry_fields.next().unwrap_or_default() }
    }
}
