use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use governor::DefaultDirectRateLimiter;

use super::{Quotas, tally::Tally};
use crate::{
    lock::{AcquireOutcome, Refusal},
    locks::{Turn, requests::AcquireRequest},
    store::Shard,
};

/// What is known of one account.
pub(super) struct Known {
    pub(super) counts: Mutex<Counts>,
    /// Held while it is counted for somebody who waits.
    pub(super) counting: tokio::sync::Mutex<()>,
    recounts: DefaultDirectRateLimiter,
}

#[derive(Default)]
pub(super) struct Counts {
    /// From when the counts are.
    counted: Option<Instant>,
    /// How often it was counted.
    rounds: u64,
    /// Whether something was got meanwhile, which may have been counted twice or not
    /// at all.
    is_doubtful: bool,
    /// When something was got last.
    added_at: Option<Instant>,
    /// The requests that have no answer yet, and those of them that had none when
    /// it was counted: these may be in the count, too.
    under_way: usize,
    counted_under_way: usize,
    /// Whether it is to be counted in the next round.
    pub(super) has_asked: bool,
    pub(super) held: Tally,
    pub(super) waiting: Tally,
}

/// What a request may have in its shard.
pub(super) struct Allowance {
    pub(super) request: AcquireRequest,
    /// What the account has in the others.
    pub(super) held_elsewhere: u64,
    pub(super) waiting_elsewhere: u64,
    /// Whether it may be refused more by this count.
    pub(super) is_fresh: bool,
    /// Whether other servers can hardly have used up what is left.
    pub(super) is_sure: bool,
    /// Whether there are fewer in the shard than there may be.
    pub(super) is_ample: bool,
}

/// A request that has no answer yet.
pub(super) struct UnderWay<'a> {
    known: &'a Known,
    rounds_before: u64,
    shard: Shard,
    waits: bool,
    /// What came of it, once it is known.
    pub(super) turn: Option<&'a Turn>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            counts: Mutex::default(),
            counting: tokio::sync::Mutex::default(),
            recounts: DefaultDirectRateLimiter::direct(Quotas::RECOUNTS),
        }
    }
}

impl Known {
    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        // Every change is whole; a panic elsewhere does not spoil it.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_counted_since(&self, time: Instant) -> bool {
        self.counts().counted.is_some_and(|begun| begun >= time)
    }

    /// Whether it may be counted for a refusal, however fresh the count is.
    pub(super) fn may_recount(&self) -> bool {
        self.recounts.check().is_ok()
    }

    pub(super) fn allowance(&self, request: &AcquireRequest, shard: Shard, waits: bool) -> Allowance {
        let mut counts = self.counts();
        counts.has_asked = true;
        let (held_elsewhere, waiting_elsewhere) = (counts.held.beside(shard), counts.waiting.beside(shard));
        let is_counted = counts.counted.is_some();
        let part = if is_counted { 1 } else { Quotas::UNCOUNTED_PART };
        let held_max = request.held_max.saturating_sub(held_elsewhere) / part;
        let waiting_max = request.waiting_max.saturating_sub(waiting_elsewhere) / part;
        let is_younger_than = |age| counts.counted.is_some_and(|begun| begun.elapsed() < age);
        let is_wait_sure = !waits || counts.waiting.is_sure(request.waiting_max);
        let are_sure = is_wait_sure && counts.held.is_sure(request.held_max);
        Allowance {
            request: AcquireRequest { held_max, waiting_max, ..request.clone() },
            held_elsewhere,
            waiting_elsewhere,
            is_fresh: is_younger_than(Quotas::FRESH) && !counts.is_doubtful && counts.counted_under_way == 0,
            is_sure: !is_counted || are_sure,
            is_ample: is_counted && counts.held.within(shard) < held_max,
        }
    }

    pub(super) fn begin(&self, shard: Shard, waits: bool) -> UnderWay<'_> {
        let mut counts = self.counts();
        counts.under_way += 1;
        counts.held.begin(shard);
        if waits {
            counts.waiting.begin(shard);
        }
        UnderWay { known: self, rounds_before: counts.rounds, shard, waits, turn: None }
    }
}

impl Counts {
    /// Takes note of when what is counted now was begun to be.
    pub(super) fn date(&mut self, begun: Instant) {
        self.is_doubtful = self.added_at.is_some_and(|added_at| added_at >= begun);
        self.counted = Some(begun);
        self.rounds += 1;
        self.counted_under_way = self.under_way;
    }

    /// Takes note of the end of what was asked after so many rounds.
    fn end(&mut self, rounds_before: u64, is_added: bool) {
        self.under_way -= 1;
        if self.rounds > rounds_before {
            self.counted_under_way -= 1;
            self.is_doubtful |= is_added;
        }
        if is_added {
            self.added_at = Some(Instant::now());
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let is_granted = matches!(self.turn, Some(Turn::Over(AcquireOutcome::Granted(_))));
        let stands_in_line = self.waits && matches!(self.turn, Some(Turn::Waiting(_) | Turn::Recovering { .. }));
        let mut counts = self.known.counts();
        counts.end(self.rounds_before, is_granted || stands_in_line);
        counts.held.end(self.shard, is_granted);
        if self.waits {
            counts.waiting.end(self.shard, stands_in_line);
        }
    }
}

impl Allowance {
    /// A refusal names what the account has in all shards.
    pub(super) fn in_all(&self, turn: Turn) -> Turn {
        let refusal = match turn {
            Turn::Over(AcquireOutcome::Refused(Refusal::OverQuota { held })) => {
                Refusal::OverQuota { held: held + self.held_elsewhere }
            }
            Turn::Over(AcquireOutcome::Refused(Refusal::TooManyWaiting { waiting })) => {
                Refusal::TooManyWaiting { waiting: waiting + self.waiting_elsewhere }
            }
            turn => return turn,
        };
        Turn::Over(AcquireOutcome::Refused(refusal))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::lock::AccountId;

    fn request(held_max: u64) -> AcquireRequest {
        AcquireRequest { held_max, waiting_max: held_max / 10, ..AcquireRequest::of(AccountId(Uuid::nil())) }
    }

    #[test]
    fn before_it_is_counted_an_account_may_have_half_of_its_quota_and_afterwards_the_rest() {
        let shards = [0, 1].map(|number| Shard { number, tag: "" });
        let known = Known::default();
        let allowance = |held_max| known.allowance(&request(held_max), shards[0], true);
        let in_one = allowance(960).request;
        assert_eq!((in_one.held_max, in_one.waiting_max), (10, 1));
        assert_eq!(in_one.held_max * Shard::SPREAD as u64, 960 / 2);
        assert!(allowance(960).is_sure && !allowance(960).is_fresh && !allowance(960).is_ample);
        assert_eq!(allowance(95).request.held_max, 0, "one that may have few is counted at once");

        known.counts().date(Instant::now());
        known.counts().held.count(shards.into_iter().zip([10, 900]));
        let counted = allowance(960);
        assert_eq!((counted.request.held_max, counted.held_elsewhere), (60, 900));
        assert!(counted.is_fresh && counted.is_sure && counted.is_ample);
        // Six of fifty may be used before it is counted again.
        let under_way: Vec<_> = (0..6).map(|_| known.begin(shards[1], false)).collect();
        assert!(!allowance(960).is_sure && allowance(960).held_elsewhere == 906);
        drop(under_way);
        assert!(allowance(960).is_sure && allowance(960).held_elsewhere == 900);
        assert_eq!(allowance(900).request.held_max, 0);
    }

    #[test]
    fn a_count_while_something_is_added_is_not_one_by_which_to_refuse() {
        let shard = Shard { number: 0, tag: "" };
        let (known, before) = (Known::default(), Instant::now());
        let count = |begun| known.counts().date(begun);
        let is_fresh = || known.allowance(&request(60), shard, true).is_fresh;
        let in_line = Turn::Recovering { rest: Duration::ZERO };
        let refused = Turn::Over(AcquireOutcome::Refused(Refusal::TooManyWaiting { waiting: 6 }));
        let ask = || known.begin(shard, true);

        let mut under_way = ask();
        count(Instant::now());
        assert!(!is_fresh(), "it may have been counted, and have no answer yet");
        under_way.turn = Some(&refused);
        drop(under_way);
        assert!(is_fresh() && known.is_counted_since(before));
        let mut under_way = ask();
        count(Instant::now());
        under_way.turn = Some(&in_line);
        drop(under_way);
        assert!(!is_fresh(), "it may have been counted, and then added");
        count(before);
        assert!(!is_fresh(), "it may have been added, and then not counted");
        count(Instant::now());
        assert!(is_fresh());
    }
}
