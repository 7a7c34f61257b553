//! Buffers history events and activity counts until they are written.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::lock::{AccountId, FencingToken, Grant};
use crate::locks::{AcquireRequest, ActivityCounts, GrantEnd, Locks};

/// The events of the current round. Each thread uses its own part, up to the number of
/// parts: one mutex for all requests would be contended.
#[derive(Default)]
pub(in crate::locks) struct HistoryBuffer([Mutex<BufferPart>; HistoryBuffer::PARTS]);

#[derive(Default)]
struct BufferPart {
    accounts: HashMap<AccountId, AccountBatch>,
    /// Grants and ends of all accounts.
    events: usize,
}

/// The events of one account in a round.
#[derive(Default)]
pub(in crate::locks) struct AccountBatch {
    pub(in crate::locks) counts: ActivityCounts,
    pub(in crate::locks) grants: Vec<HistoryEvent>,
    ends: Vec<HistoryEvent>,
    /// Ends of the previous round. They wait one round, as another server may have buffered
    /// the grant.
    pub(in crate::locks) earlier_ends: Vec<HistoryEvent>,
    /// Whether events were dropped.
    pub(in crate::locks) is_lossy: bool,
}

/// A grant or an end for the history of a lock.
pub(in crate::locks) struct HistoryEvent {
    pub(in crate::locks) lock_key: String,
    pub(in crate::locks) text: String,
}

impl HistoryBuffer {
    const PARTS: usize = 16;

    /// The part of the current thread.
    fn part(&self) -> MutexGuard<'_, BufferPart> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        let [first, ..] = &self.0;
        let part = self.0.get(THREAD.with(|thread| thread % Self::PARTS)).unwrap_or(first);
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::locks) fn granted(&self, request: &AcquireRequest, lock_key: &str, grant: &Grant) {
        let acquired_ms = grant.expires_at.as_millisecond() - grant.lease.as_ms() as i64;
        self.update(request.claimant.account, |batch, is_full| {
            batch.counts.acquired += 1;
            if is_full || batch.grants.len() >= Locks::BATCH_GRANTS_MAX {
                batch.is_lossy = true;
                return 0;
            }
            let (fence, owner) = (grant.fence, request.claimant.owner_text());
            let text =
                format!("{fence}\n{acquired_ms}\n\n\n{owner}\n{}\n{}", request.label.as_str(), request.note.as_str());
            batch.grants.push(HistoryEvent { lock_key: lock_key.to_owned(), text });
            1
        });
    }

    /// Buffers the end of a grant at `at_ms`, by the store's clock as the time of the grant.
    pub(in crate::locks) fn ended(
        &self,
        account: AccountId,
        lock_key: &str,
        fence: FencingToken,
        (at_ms, end): (u64, GrantEnd),
    ) {
        self.update(account, |batch, is_full| {
            if is_full || batch.ends.len() >= Locks::BATCH_ENDS_MAX {
                batch.is_lossy = true;
                return 0;
            }
            let text = format!("{fence}\n{at_ms}\n{}", end.as_str());
            batch.ends.push(HistoryEvent { lock_key: lock_key.to_owned(), text });
            1
        });
    }

    pub(in crate::locks) fn refused(&self, account: AccountId) {
        self.update(account, |batch, _| {
            batch.counts.refused += 1;
            0
        });
    }

    pub(in crate::locks) fn rate_limited(&self, account: AccountId) {
        self.update(account, |batch, _| {
            batch.counts.limited += 1;
            0
        });
    }

    /// Changes the batch of an account. `change` receives whether the part is full of events,
    /// and returns the number of events that it added.
    fn update(&self, account: AccountId, change: impl FnOnce(&mut AccountBatch, bool) -> usize) {
        let mut part = self.part();
        let is_full = part.events >= Locks::BUFFER_EVENTS_MAX;
        if part.accounts.len() >= Locks::BUFFER_ACCOUNTS_MAX && !part.accounts.contains_key(&account) {
            return;
        }
        part.events += change(part.accounts.entry(account).or_default(), is_full);
    }

    /// Ends the round: returns the batches to write.
    pub(in crate::locks) fn take(&self) -> HashMap<AccountId, AccountBatch> {
        let mut taken = HashMap::<AccountId, AccountBatch>::new();
        for part in &self.0 {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let BufferPart { accounts, .. } = std::mem::take(&mut *part);
            for (account, mut batch) in accounts {
                let later = std::mem::take(&mut batch.ends);
                if !later.is_empty() {
                    part.accounts.entry(account).or_default().earlier_ends = later;
                }
                taken.entry(account).or_default().add(batch);
            }
        }
        taken
    }
}

impl AccountBatch {
    /// Adds another thread's batch of the same account, up to the limits.
    fn add(&mut self, other: Self) {
        let ActivityCounts { acquired, refused, limited } = other.counts;
        self.counts.acquired += acquired;
        self.counts.refused += refused;
        self.counts.limited += limited;
        self.grants.extend(other.grants);
        self.earlier_ends.extend(other.earlier_ends);
        self.is_lossy |= other.is_lossy
            || self.grants.len() > Locks::BATCH_GRANTS_MAX
            || self.earlier_ends.len() > Locks::BATCH_ENDS_MAX;
        self.grants.truncate(Locks::BATCH_GRANTS_MAX);
        self.earlier_ends.truncate(Locks::BATCH_ENDS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn account(number: usize) -> AccountId {
        AccountId(Uuid::from_u128(number as u128))
    }

    fn end(buffer: &HistoryBuffer, account: AccountId) {
        buffer.ended(account, "-/x", "7".parse().unwrap(), (1, GrantEnd::Released));
    }

    fn grant(buffer: &HistoryBuffer, account: AccountId) {
        let request = AcquireRequest::of(account);
        let grant = Grant { fence: "7".parse().unwrap(), lease: request.lease, expires_at: Timestamp::UNIX_EPOCH };
        buffer.granted(&request, "-/x", &grant);
    }

    fn batch(grants: usize, ends: usize) -> AccountBatch {
        let events =
            |count| (0..count).map(|_| HistoryEvent { lock_key: String::new(), text: String::new() }).collect();
        let counts = ActivityCounts { acquired: 1, refused: 20, limited: 300 };
        AccountBatch { counts, grants: events(grants), earlier_ends: events(ends), ..AccountBatch::default() }
    }

    #[test]
    fn end_waits_for_one_round_and_is_written_once() {
        let buffer = HistoryBuffer::default();
        end(&buffer, account(1));
        let ends = || buffer.take().remove(&account(1)).map(|batch| batch.earlier_ends.len());
        assert_eq!([ends(), ends(), ends()], [Some(0), Some(1), None]);
    }

    #[test]
    fn account_limits_drop_events_of_that_account_only() {
        let buffer = HistoryBuffer::default();
        (0..Locks::BATCH_ENDS_MAX).for_each(|_| end(&buffer, account(1)));
        end(&buffer, account(2));
        let all = buffer.take();
        assert!(!all[&account(1)].is_lossy && !all[&account(2)].is_lossy);
        assert_eq!(buffer.take()[&account(1)].earlier_ends.len(), Locks::BATCH_ENDS_MAX);
        (0..=Locks::BATCH_ENDS_MAX).for_each(|_| end(&buffer, account(1)));
        assert!(buffer.take()[&account(1)].is_lossy);
        assert_eq!(buffer.take()[&account(1)].earlier_ends.len(), Locks::BATCH_ENDS_MAX);
        (0..Locks::BATCH_GRANTS_MAX).for_each(|_| grant(&buffer, account(1)));
        assert!(!buffer.take()[&account(1)].is_lossy);
        (0..=Locks::BATCH_GRANTS_MAX).for_each(|_| grant(&buffer, account(1)));
        let batch = buffer.take().remove(&account(1)).unwrap();
        assert_eq!((batch.grants.len(), batch.is_lossy), (Locks::BATCH_GRANTS_MAX, true));
        assert_eq!(batch.counts.acquired as usize, Locks::BATCH_GRANTS_MAX + 1);
    }

    #[test]
    fn buffer_limit_drops_events_but_keeps_counts() {
        let buffer = HistoryBuffer::default();
        (0..Locks::BUFFER_EVENTS_MAX).for_each(|number| end(&buffer, account(number)));
        end(&buffer, account(0));
        grant(&buffer, account(2));
        buffer.refused(account(0));
        let all = buffer.take();
        assert!(all[&account(0)].is_lossy && all[&account(2)].is_lossy && !all[&account(1)].is_lossy);
        assert!(all[&account(2)].grants.is_empty());
        assert_eq!(all[&account(0)].counts.refused, 1);

        (0..=Locks::BUFFER_ACCOUNTS_MAX).for_each(|number| buffer.rate_limited(account(number)));
        buffer.rate_limited(account(0));
        let all = buffer.take();
        assert_eq!((all.len(), all[&account(0)].counts.limited), (Locks::BUFFER_ACCOUNTS_MAX, 2));
    }

    #[test]
    fn batches_of_threads_are_merged_up_to_the_limits() {
        let [grants_max, ends_max] = [Locks::BATCH_GRANTS_MAX, Locks::BATCH_ENDS_MAX];
        let sum = |(one, other): (AccountBatch, AccountBatch)| {
            let mut sum = one;
            sum.add(other);
            (sum.counts, sum.grants.len(), sum.earlier_ends.len(), sum.is_lossy)
        };
        let counts = ActivityCounts { acquired: 2, refused: 40, limited: 600 };
        let full = (batch(grants_max - 1, ends_max - 1), batch(1, 1));
        assert_eq!(sum(full), (counts, grants_max, ends_max, false));
        assert_eq!(sum((batch(grants_max, 0), batch(1, 0))), (counts, grants_max, 0, true));
        assert_eq!(sum((batch(0, 1), batch(0, ends_max))), (counts, 0, ends_max, true));
        let lossy = || AccountBatch { is_lossy: true, ..batch(0, 0) };
        assert!(sum((lossy(), batch(0, 0))).3 && sum((batch(0, 0), lossy())).3);
    }
}
