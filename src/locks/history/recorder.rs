use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::lock::{AccountId, FencingToken, Grant};
use crate::locks::{AcquireRequest, Counts, Ending, Locks};

/// What is noted until it is written. Each thread has a part of its own, as far
/// as there are enough: what all requests have to lock holds all of them up.
#[derive(Default)]
pub(in crate::locks) struct Recorder([Mutex<Round>; Recorder::PARTS]);

#[derive(Default)]
struct Round {
    accounts: HashMap<AccountId, Noted>,
    /// Grants and ends of all accounts.
    events: usize,
}

/// What is noted of one account.
#[derive(Default)]
pub(in crate::locks) struct Noted {
    pub(in crate::locks) counts: Counts,
    pub(in crate::locks) grants: Vec<Event>,
    ends: Vec<Event>,
    /// What has waited for one round: the grant that has ended may be noted by
    /// another server.
    pub(in crate::locks) earlier_ends: Vec<Event>,
    /// Whether something was left out.
    pub(in crate::locks) is_lossy: bool,
}

/// What goes into the history of a lock.
pub(in crate::locks) struct Event {
    pub(in crate::locks) lock_key: String,
    pub(in crate::locks) text: String,
}

impl Recorder {
    const PARTS: usize = 16;

    /// The part of the thread that asks.
    fn part(&self) -> MutexGuard<'_, Round> {
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
        self.note(request.claimant.account, |noted, is_full| {
            noted.counts.acquired += 1;
            if is_full || noted.grants.len() >= Locks::RECORDED_GRANTS_MAX {
                noted.is_lossy = true;
                return 0;
            }
            let (fence, owner) = (grant.fence, request.claimant.owner_text());
            let text =
                format!("{fence}\n{acquired_ms}\n\n\n{owner}\n{}\n{}", request.label.as_str(), request.note.as_str());
            noted.grants.push(Event { lock_key: lock_key.to_owned(), text });
            1
        });
    }

    /// Notes the end of a grant at `at_ms`, by the clock that its beginning is told by.
    pub(in crate::locks) fn ended(
        &self,
        account: AccountId,
        lock_key: &str,
        fence: FencingToken,
        (at_ms, how): (u64, Ending),
    ) {
        self.note(account, |noted, is_full| {
            if is_full || noted.ends.len() >= Locks::RECORDED_ENDS_MAX {
                noted.is_lossy = true;
                return 0;
            }
            let text = format!("{fence}\n{at_ms}\n{}", how.word());
            noted.ends.push(Event { lock_key: lock_key.to_owned(), text });
            1
        });
    }

    pub(in crate::locks) fn refused(&self, account: AccountId) {
        self.note(account, |noted, _| {
            noted.counts.refused += 1;
            0
        });
    }

    pub(in crate::locks) fn limited(&self, account: AccountId) {
        self.note(account, |noted, _| {
            noted.counts.limited += 1;
            0
        });
    }

    /// Notes something of an account; `what` is told whether there is no room for
    /// more events, and says how many it has added.
    fn note(&self, account: AccountId, what: impl FnOnce(&mut Noted, bool) -> usize) {
        let mut round = self.part();
        let is_full = round.events >= Locks::RECORDED_EVENTS_MAX;
        if round.accounts.len() >= Locks::RECORDED_ACCOUNTS_MAX && !round.accounts.contains_key(&account) {
            return;
        }
        round.events += what(round.accounts.entry(account).or_default(), is_full);
    }

    /// Ends the round: what is to be written now.
    pub(in crate::locks) fn take(&self) -> HashMap<AccountId, Noted> {
        let mut taken = HashMap::<AccountId, Noted>::new();
        for part in &self.0 {
            let mut round = part.lock().unwrap_or_else(PoisonError::into_inner);
            let Round { accounts, .. } = std::mem::take(&mut *round);
            for (account, mut noted) in accounts {
                let later = std::mem::take(&mut noted.ends);
                if !later.is_empty() {
                    round.accounts.entry(account).or_default().earlier_ends = later;
                }
                taken.entry(account).or_default().add(noted);
            }
        }
        taken
    }
}

impl Noted {
    /// Adds what another thread has noted of the same account, as far as it fits.
    fn add(&mut self, other: Self) {
        let Counts { acquired, refused, limited } = other.counts;
        self.counts.acquired += acquired;
        self.counts.refused += refused;
        self.counts.limited += limited;
        self.grants.extend(other.grants);
        self.earlier_ends.extend(other.earlier_ends);
        self.is_lossy |= other.is_lossy
            || self.grants.len() > Locks::RECORDED_GRANTS_MAX
            || self.earlier_ends.len() > Locks::RECORDED_ENDS_MAX;
        self.grants.truncate(Locks::RECORDED_GRANTS_MAX);
        self.earlier_ends.truncate(Locks::RECORDED_ENDS_MAX);
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

    fn end(recorder: &Recorder, account: AccountId) {
        recorder.ended(account, "-/x", "7".parse().unwrap(), (1, Ending::Released));
    }

    fn grant(recorder: &Recorder, account: AccountId) {
        let request = AcquireRequest::of(account);
        let grant = Grant { fence: "7".parse().unwrap(), lease: request.lease, expires_at: Timestamp::UNIX_EPOCH };
        recorder.granted(&request, "-/x", &grant);
    }

    fn noted(grants: usize, ends: usize) -> Noted {
        let events = |count| (0..count).map(|_| Event { lock_key: String::new(), text: String::new() }).collect();
        let counts = Counts { acquired: 1, refused: 20, limited: 300 };
        Noted { counts, grants: events(grants), earlier_ends: events(ends), ..Noted::default() }
    }

    #[test]
    fn an_end_waits_for_a_round_and_is_written_once() {
        let recorder = Recorder::default();
        end(&recorder, account(1));
        let ends = || recorder.take().remove(&account(1)).map(|noted| noted.earlier_ends.len());
        assert_eq!([ends(), ends(), ends()], [Some(0), Some(1), None]);
    }

    #[test]
    fn what_is_too_much_of_an_account_is_left_out_and_others_are_not() {
        let recorder = Recorder::default();
        (0..Locks::RECORDED_ENDS_MAX).for_each(|_| end(&recorder, account(1)));
        end(&recorder, account(2));
        let all = recorder.take();
        assert!(!all[&account(1)].is_lossy && !all[&account(2)].is_lossy);
        assert_eq!(recorder.take()[&account(1)].earlier_ends.len(), Locks::RECORDED_ENDS_MAX);
        (0..=Locks::RECORDED_ENDS_MAX).for_each(|_| end(&recorder, account(1)));
        assert!(recorder.take()[&account(1)].is_lossy);
        assert_eq!(recorder.take()[&account(1)].earlier_ends.len(), Locks::RECORDED_ENDS_MAX);
        (0..Locks::RECORDED_GRANTS_MAX).for_each(|_| grant(&recorder, account(1)));
        assert!(!recorder.take()[&account(1)].is_lossy);
        (0..=Locks::RECORDED_GRANTS_MAX).for_each(|_| grant(&recorder, account(1)));
        let noted = recorder.take().remove(&account(1)).unwrap();
        assert_eq!((noted.grants.len(), noted.is_lossy), (Locks::RECORDED_GRANTS_MAX, true));
        assert_eq!(noted.counts.acquired as usize, Locks::RECORDED_GRANTS_MAX + 1);
    }

    #[test]
    fn what_is_too_much_of_all_is_left_out_but_counted() {
        let recorder = Recorder::default();
        (0..Locks::RECORDED_EVENTS_MAX).for_each(|number| end(&recorder, account(number)));
        end(&recorder, account(0));
        grant(&recorder, account(2));
        recorder.refused(account(0));
        let all = recorder.take();
        assert!(all[&account(0)].is_lossy && all[&account(2)].is_lossy && !all[&account(1)].is_lossy);
        assert!(all[&account(2)].grants.is_empty());
        assert_eq!(all[&account(0)].counts.refused, 1);

        (0..=Locks::RECORDED_ACCOUNTS_MAX).for_each(|number| recorder.limited(account(number)));
        recorder.limited(account(0));
        let all = recorder.take();
        assert_eq!((all.len(), all[&account(0)].counts.limited), (Locks::RECORDED_ACCOUNTS_MAX, 2));
    }

    #[test]
    fn what_threads_have_noted_is_added_as_far_as_it_fits() {
        let [grants_max, ends_max] = [Locks::RECORDED_GRANTS_MAX, Locks::RECORDED_ENDS_MAX];
        let sum = |(one, other): (Noted, Noted)| {
            let mut sum = one;
            sum.add(other);
            (sum.counts, sum.grants.len(), sum.earlier_ends.len(), sum.is_lossy)
        };
        let counts = Counts { acquired: 2, refused: 40, limited: 600 };
        let full = (noted(grants_max - 1, ends_max - 1), noted(1, 1));
        assert_eq!(sum(full), (counts, grants_max, ends_max, false));
        assert_eq!(sum((noted(grants_max, 0), noted(1, 0))), (counts, grants_max, 0, true));
        assert_eq!(sum((noted(0, 1), noted(0, ends_max))), (counts, 0, ends_max, true));
        let lossy = || Noted { is_lossy: true, ..noted(0, 0) };
        assert!(sum((lossy(), noted(0, 0))).3 && sum((noted(0, 0), lossy())).3);
    }
}
