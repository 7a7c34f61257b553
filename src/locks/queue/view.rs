use futures_util::future::try_join_all;

use crate::locks::{
    LockId, Locks, LocksError,
    grant_codec::read_acquirer,
    requests::{Keys, script},
};
use crate::{
    lock::{AccountId, Payment},
    store::Script,
};

static CROWD: Script = script!("list_waiters");

/// Who waits for a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// How many.
    pub waiting: u64,
    /// The first of them.
    pub first: Vec<Waiter>,
}

/// One who waits, as far as an account may know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// One of its own: owner, which may be empty, token label and note.
    Own {
        owner: String,
        label: String,
        note: String,
    },
    OfAnother,
}

impl Locks {
    /// How many of those who wait for a lock are named.
    pub const CROWD_NAMED_MAX: usize = 5;

    /// Says who waits for these locks, a page of them at most, for an account to
    /// see.
    ///
    /// # Errors
    /// When the store gave no answer in time.
    pub async fn crowds(&self, account: AccountId, locks: &[LockId]) -> Result<Vec<Crowd>, LocksError> {
        let asking = self.by_shard(locks, LockId::to_string);
        let found = try_join_all(asking.into_values().map(async |(lock_keys, locks)| {
            Ok::<_, LocksError>(lock_keys.into_iter().zip(self.crowds_in(account, &locks).await?))
        }));
        let mut found: Vec<_> = found.await?.into_iter().flatten().collect();
        found.sort_by_key(|(lock_key, _)| *lock_key);
        Ok(found.into_iter().map(|(_, crowd)| crowd).collect())
    }

    /// The same for locks of one shard.
    async fn crowds_in(&self, account: AccountId, locks: &[&LockId]) -> Result<Vec<Crowd>, LocksError> {
        let keys = locks.iter().flat_map(|lock| {
            let keys = Keys::new(&self.store, &lock.to_string(), "-", &Payment::Paid);
            [keys.line().to_owned(), keys.tickets().to_owned()]
        });
        let keys: Vec<String> = keys.collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let reply = self.store.run(&CROWD, &keys, &[&Self::CROWD_NAMED_MAX.to_string()]).await?;
        let mut crowds = Vec::with_capacity(locks.len());
        let mut index = 1;
        for _ in locks {
            let (waiting, named): (u64, usize) = (reply.word(index)?, reply.word(index + 1)?);
            let mut first = Vec::with_capacity(named);
            for at in 0..named {
                let (ticket, record) = (reply.text(index + 2 + 2 * at)?, reply.text(index + 3 + 2 * at)?);
                first.push(Waiter::read(account, ticket, record));
            }
            index += 2 + 2 * named;
            crowds.push(Crowd { waiting, first });
        }
        Ok(crowds)
    }
}

impl Waiter {
    /// Reads a ticket and its record as `lua/keys.lua` describes them.
    fn read(account: AccountId, ticket: &str, record: &str) -> Self {
        let mut of_ticket = ticket.split('\n');
        if of_ticket.next() != Some(&*account.to_string()) {
            return Self::OfAnother;
        }
        let owner = of_ticket.next().unwrap_or_default().to_owned();
        let mut of_record = record.split('\n').skip(4).map(str::to_owned);
        let label = of_record.next().unwrap_or_default();
        let label = read_acquirer(&label).0.to_owned();
        Self::Own { owner, label, note: of_record.next().unwrap_or_default() }
    }
}
