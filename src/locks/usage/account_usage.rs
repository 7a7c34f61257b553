//! The usage of one account, and how far a count of it can be trusted.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use governor::DefaultDirectRateLimiter;

use super::{UsageCache, shard_usage::ShardUsage};
use crate::{
    lock::{AcquireOutcome, Refusal},
    locks::{AcquireProgress, requests::AcquireRequest},
    store::Shard,
};

/// The counted usage of one account.
pub(super) struct AccountUsage {
    pub(super) counts: Mutex<UsageCounts>,
    /// Locked during a recount that a request waits for.
    pub(super) counting: tokio::sync::Mutex<()>,
    recounts: DefaultDirectRateLimiter,
}

#[derive(Default)]
pub(super) struct UsageCounts {
    /// When the last count began.
    counted_at: Option<Instant>,
    /// The number of counts.
    rounds: u64,
    /// Whether something was added during the count, which may contain it twice or not at all.
    is_doubtful: bool,
    /// When a grant or a queue entry was last added.
    added_at: Option<Instant>,
    /// Unanswered requests, and those of them that were unanswered when the count began: the
    /// count may already contain the latter.
    pending: usize,
    pending_when_counted: usize,
    /// Whether the next round counts the account.
    pub(super) needs_count: bool,
    pub(super) held: ShardUsage,
    pub(super) waiting: ShardUsage,
}

/// The quota of a request in its shard.
pub(super) struct ShardQuota {
    /// The request with this shard's part of the quotas.
    pub(super) request: AcquireRequest,
    /// The usage of the account in the other shards.
    pub(super) held_elsewhere: u64,
    pub(super) waiting_elsewhere: u64,
    /// Whether the count is recent and certain enough to refuse by.
    pub(super) is_fresh: bool,
    /// Whether other servers are unlikely to have used up the remaining quota.
    pub(super) is_reliable: bool,
    /// Whether the shard has fewer held locks than its quota.
    pub(super) has_spare: bool,
}

/// An unanswered request. Dropping it updates the counts by its progress.
pub(super) struct PendingRequest<'a> {
    usage: &'a AccountUsage,
    rounds_before: u64,
    shard: Shard,
    waits: bool,
    /// The answer, once there is one.
    pub(super) progress: Option<&'a AcquireProgress>,
}

impl Default for AccountUsage {
    fn default() -> Self {
        Self {
            counts: Mutex::default(),
            counting: tokio::sync::Mutex::default(),
            recounts: DefaultDirectRateLimiter::direct(UsageCache::RECOUNTS),
        }
    }
}

impl AccountUsage {
    pub(super) fn counts(&self) -> MutexGuard<'_, UsageCounts> {
        // No panic can leave a change half done.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_counted_since(&self, time: Instant) -> bool {
        self.counts().counted_at.is_some_and(|begun| begun >= time)
    }

    /// Whether the rate of recounts allows one more, however fresh the count is.
    pub(super) fn may_recount(&self) -> bool {
        self.recounts.check().is_ok()
    }

    pub(super) fn quota(&self, request: &AcquireRequest, shard: Shard, waits: bool) -> ShardQuota {
        let mut counts = self.counts();
        counts.needs_count = true;
        let (held_elsewhere, waiting_elsewhere) = (counts.held.elsewhere(shard), counts.waiting.elsewhere(shard));
        let is_counted = counts.counted_at.is_some();
        let part = if is_counted { 1 } else { UsageCache::UNCOUNTED_PART };
        let held_max = request.held_max.saturating_sub(held_elsewhere) / part;
        let waiting_max = request.waiting_max.saturating_sub(waiting_elsewhere) / part;
        let is_younger_than = |age| counts.counted_at.is_some_and(|begun| begun.elapsed() < age);
        let is_wait_sure = !waits || counts.waiting.is_reliable(request.waiting_max);
        let are_sure = is_wait_sure && counts.held.is_reliable(request.held_max);
        ShardQuota {
            request: AcquireRequest { held_max, waiting_max, ..request.clone() },
            held_elsewhere,
            waiting_elsewhere,
            is_fresh: is_younger_than(UsageCache::FRESH) && !counts.is_doubtful && counts.pending_when_counted == 0,
            is_reliable: !is_counted || are_sure,
            has_spare: is_counted && counts.held.in_shard(shard) < held_max,
        }
    }

    pub(super) fn begin(&self, shard: Shard, waits: bool) -> PendingRequest<'_> {
        let mut counts = self.counts();
        counts.pending += 1;
        counts.held.add_pending(shard);
        if waits {
            counts.waiting.add_pending(shard);
        }
        PendingRequest { usage: self, rounds_before: counts.rounds, shard, waits, progress: None }
    }
}

impl UsageCounts {
    /// Starts the count that began at `begun`.
    pub(super) fn begin_count(&mut self, begun: Instant) {
        self.is_doubtful = self.added_at.is_some_and(|added_at| added_at >= begun);
        self.counted_at = Some(begun);
        self.rounds += 1;
        self.pending_when_counted = self.pending;
    }

    /// Ends a request that began after `rounds_before` counts.
    fn end(&mut self, rounds_before: u64, is_added: bool) {
        self.pending -= 1;
        if self.rounds > rounds_before {
            self.pending_when_counted -= 1;
            self.is_doubtful |= is_added;
        }
        if is_added {
            self.added_at = Some(Instant::now());
        }
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        let is_granted = matches!(self.progress, Some(AcquireProgress::Done(AcquireOutcome::Granted(_))));
        let is_queued = self.waits
            && matches!(self.progress, Some(AcquireProgress::Waiting(_) | AcquireProgress::Recovering { .. }));
        let mut counts = self.usage.counts();
        counts.end(self.rounds_before, is_granted || is_queued);
        counts.held.resolve_pending(self.shard, is_granted);
        if self.waits {
            counts.waiting.resolve_pending(self.shard, is_queued);
        }
    }
}

impl ShardQuota {
    /// Adds the usage in the other shards to the figures of a refusal.
    pub(super) fn across_shards(&self, progress: AcquireProgress) -> AcquireProgress {
        let refusal = match progress {
            AcquireProgress::Done(AcquireOutcome::Refused(Refusal::OverQuota { held })) => {
                Refusal::OverQuota { held: held + self.held_elsewhere }
            }
            AcquireProgress::Done(AcquireOutcome::Refused(Refusal::TooManyWaiting { waiting })) => {
                Refusal::TooManyWaiting { waiting: waiting + self.waiting_elsewhere }
            }
            progress => return progress,
        };
        AcquireProgress::Done(AcquireOutcome::Refused(refusal))
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
    fn uncounted_account_gets_half_of_its_quota_and_counted_account_the_remainder() {
        let shards = [0, 1].map(|number| Shard { number, tag: "" });
        let usage = AccountUsage::default();
        let quota = |held_max| usage.quota(&request(held_max), shards[0], true);
        let in_one = quota(960).request;
        assert_eq!((in_one.held_max, in_one.waiting_max), (10, 1));
        assert_eq!(in_one.held_max * Shard::CLUSTER_COUNT as u64, 960 / 2);
        assert!(quota(960).is_reliable && !quota(960).is_fresh && !quota(960).has_spare);
        assert_eq!(quota(95).request.held_max, 0, "a small quota requires a count first");

        usage.counts().begin_count(Instant::now());
        usage.counts().held.set_counted(shards.into_iter().zip([10, 900]));
        let counted = quota(960);
        assert_eq!((counted.request.held_max, counted.held_elsewhere), (60, 900));
        assert!(counted.is_fresh && counted.is_reliable && counted.has_spare);
        // Six of the remaining fifty may be used before the next count.
        let pending: Vec<_> = (0..6).map(|_| usage.begin(shards[1], false)).collect();
        assert!(!quota(960).is_reliable && quota(960).held_elsewhere == 906);
        drop(pending);
        assert!(quota(960).is_reliable && quota(960).held_elsewhere == 900);
        assert_eq!(quota(900).request.held_max, 0);
    }

    #[test]
    fn count_during_an_addition_is_not_fresh() {
        let shard = Shard { number: 0, tag: "" };
        let (usage, before) = (AccountUsage::default(), Instant::now());
        let count = |begun| usage.counts().begin_count(begun);
        let is_fresh = || usage.quota(&request(60), shard, true).is_fresh;
        let in_line = AcquireProgress::Recovering { remaining: Duration::ZERO };
        let refused = AcquireProgress::Done(AcquireOutcome::Refused(Refusal::TooManyWaiting { waiting: 6 }));
        let ask = || usage.begin(shard, true);

        let mut pending = ask();
        count(Instant::now());
        assert!(!is_fresh(), "a pending request may be in the count");
        pending.progress = Some(&refused);
        drop(pending);
        assert!(is_fresh() && usage.is_counted_since(before));
        let mut pending = ask();
        count(Instant::now());
        pending.progress = Some(&in_line);
        drop(pending);
        assert!(!is_fresh(), "the addition may be counted twice");
        count(before);
        assert!(!is_fresh(), "the addition may not be counted");
        count(Instant::now());
        assert!(is_fresh());
    }
}
