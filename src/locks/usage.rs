//! Quotas in a cluster: a plan limits the locks of an account in all shards, but a script
//! counts only its own shard. The server counts the other shards once a second while the
//! account acquires locks, more often when the account is near its quota, and again before
//! it refuses a request, unless it refuses many.

mod account_usage;
mod shard_usage;

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use governor::Quota;
use moka::sync::Cache;
use tokio::time::{MissedTickBehavior, interval};

use self::account_usage::AccountUsage;
use super::{
    AcquireProgress, Locks, LocksError, WithRate,
    keys::{held_key, waiting_key},
    requests::{AcquireRequest, script},
};
use crate::{
    lock::{AccountId, AcquireOutcome, Attempt, RateCharge, Refusal},
    store::{Script, Shard},
};

static COUNT_USAGE: Script = script!("usage_in_shard");

/// The counted usage of accounts by shard.
pub(super) struct UsageCache(Cache<AccountId, Arc<AccountUsage>>);

impl Default for UsageCache {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(Self::ACCOUNTS_MAX).time_to_idle(Self::KEPT).build())
    }
}

impl UsageCache {
    /// The number of cached accounts, and how long one stays after its last acquire.
    const ACCOUNTS_MAX: u64 = 50_000;
    const KEPT: Duration = Duration::from_secs(10);
    /// The rate of recounts that an account over its quota causes, so that released locks
    /// are available at once.
    const RECOUNTS: Quota = Quota::per_second(NonZeroU32::new(4).unwrap()).allow_burst(NonZeroU32::new(20).unwrap());
    /// The age limit of a count by which requests beyond that rate are refused.
    const FRESH: Duration = Duration::from_millis(250);
    /// The number of recounts for one request, whose refusal is uncertain while other
    /// requests are pending. If a node is so slow that every count is outdated on arrival,
    /// more counts would make it slower.
    const COUNTS_MAX: usize = 4;
    /// Before the first count an account may use this part of its quota in each shard, half
    /// of the quota in all shards together.
    const UNCOUNTED_PART: u64 = 2 * Shard::CLUSTER_COUNT as u64;
    const COUNT_INTERVAL: Duration = Duration::from_secs(1);
    /// The number of accounts that one script counts.
    const ACCOUNTS_PER_SCRIPT: usize = 100;

    fn account(&self, account: AccountId) -> Arc<AccountUsage> {
        self.0.get_with(account, Arc::default)
    }

    /// The accounts that acquired locks since the last round.
    fn due(&self) -> Vec<AccountId> {
        let needs_count = |usage: &AccountUsage| std::mem::take(&mut usage.counts().needs_count);
        self.0.iter().filter(|(_, usage)| needs_count(usage)).map(|(account, _)| *account).collect()
    }
}

impl Locks {
    /// [`Locks::acquire_or_enqueue`] in a cluster. An outdated count refuses no request.
    pub(super) async fn acquire_across_shards(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        wait: Duration,
    ) -> Result<WithRate<AcquireProgress>, LocksError> {
        let (shard, account, waits) = (self.shard_of(request), request.claimant.account, !wait.is_zero());
        let usage = self.usage_cache.account(account);
        let allowed = || usage.quota(request, shard, waits);
        let mut quota = allowed();
        if !quota.is_reliable {
            self.recount(account, &usage, || allowed().is_reliable).await;
            quota = allowed();
        }
        let ask = async |request: &AcquireRequest| {
            let mut pending = usage.begin(shard, waits);
            let answer = self.acquire_in_shard(request, attempt, wait).await?;
            pending.progress = Some(&answer.outcome);
            drop(pending);
            Ok::<_, LocksError>(answer)
        };
        let mut answer = ask(&quota.request).await?;
        let begun = Instant::now();
        for nth in 0..UsageCache::COUNTS_MAX {
            if nth > 0 && begun.elapsed() > UsageCache::FRESH {
                break;
            }
            let is_certain = || quota.is_fresh && (nth > 0 || !usage.may_recount());
            if !is_over_quota(&answer.outcome) || is_certain() {
                break;
            }
            self.recount(account, &usage, || false).await;
            quota = allowed();
            quota.request.charge = RateCharge::Done;
            answer.outcome = ask(&quota.request).await?.outcome;
        }
        answer.outcome = quota.across_shards(answer.outcome);
        Ok(answer)
    }

    /// [`Locks::claim`] in a cluster. A claim over quota loses its queue entry, so the count
    /// must be certain.
    pub(super) async fn claim_across_shards(
        &self,
        request: &AcquireRequest,
        attempt: Attempt,
        is_over: bool,
    ) -> Result<AcquireProgress, LocksError> {
        let (shard, account) = (self.shard_of(request), request.claimant.account);
        let usage = self.usage_cache.account(account);
        let allowed = || usage.quota(request, shard, false);
        let (mut quota, begun) = (allowed(), Instant::now());
        for nth in 0..UsageCache::COUNTS_MAX {
            let is_certain = quota.is_fresh || quota.has_spare;
            let is_enough = nth > 0 && (is_certain || begun.elapsed() > UsageCache::FRESH);
            if is_enough || (is_certain && quota.is_reliable) {
                break;
            }
            self.recount(account, &usage, || allowed().is_fresh).await;
            quota = allowed();
        }
        let mut pending = usage.begin(shard, false);
        let progress = self.claim_in_shard(&quota.request, attempt, is_over).await?;
        pending.progress = Some(&progress);
        drop(pending);
        Ok(quota.across_shards(progress))
    }

    /// Periodically counts the usage of accounts that acquire locks.
    pub(super) async fn count_usage_forever(&self) {
        if !self.store.is_sharded() {
            return std::future::pending().await;
        }
        let mut tick = interval(UsageCache::COUNT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for accounts in self.usage_cache.due().chunks(UsageCache::ACCOUNTS_PER_SCRIPT) {
                self.count_usage(accounts).await;
            }
        }
    }

    fn shard_of(&self, request: &AcquireRequest) -> Shard {
        self.store.shard_of(&request.lock.lock_key())
    }

    /// Counts the usage of an account, unless another request has counted it since this call
    /// began: concurrent requests share one count.
    async fn recount(&self, account: AccountId, usage: &AccountUsage, is_done: impl Fn() -> bool) {
        let asked = Instant::now();
        let _counting = usage.counting.lock().await;
        if !is_done() && !usage.is_counted_since(asked) {
            self.count_usage(&[account]).await;
        }
    }

    /// Counts the usage of accounts in all shards concurrently. A shard that cannot be
    /// reached keeps its former count, so that the others still grant locks.
    async fn count_usage(&self, accounts: &[AccountId]) {
        let begun = Instant::now();
        let shards = self.store.shards().iter().filter(|shard| self.store.is_connected(**shard));
        let counted = join_all(shards.map(async |shard| (*shard, self.count_usage_in(*shard, accounts).await))).await;
        for (at, account) in accounts.iter().enumerate() {
            let of = |number: usize| {
                let counted = counted.iter().filter_map(|(shard, counted)| Some((*shard, counted.as_ref().ok()?)));
                counted.filter_map(move |(shard, counted)| Some((shard, *counted.get(2 * at + number)?)))
            };
            let usage = self.usage_cache.account(*account);
            let mut counts = usage.counts();
            counts.begin_count(begun);
            counts.held.set_counted(of(0));
            counts.waiting.set_counted(of(1));
        }
    }

    /// Returns the held locks and queued requests of each account in a shard, alternating.
    async fn count_usage_in(&self, shard: Shard, accounts: &[AccountId]) -> Result<Vec<u64>, LocksError> {
        let keys = accounts.iter().flat_map(|account| {
            let account = account.to_string();
            [held_key(&self.store, shard, &account), waiting_key(&self.store, shard, &account)]
        });
        let keys: Vec<String> = keys.collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let reply = self.store.eval(&COUNT_USAGE, &keys, &[]).await?;
        (1..=keys.len()).map(|at| Ok(reply.word(at)?)).collect()
    }
}

fn is_over_quota(progress: &AcquireProgress) -> bool {
    matches!(
        progress,
        AcquireProgress::Done(AcquireOutcome::Refused(Refusal::OverQuota { .. } | Refusal::TooManyWaiting { .. }))
    )
}
